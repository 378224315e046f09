"""Public benchmarks: AlpacaEval's columns, MT-Bench, Arena-Hard, the harness's tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rayonale.report.evidence import Evidence
from rayonale.report.page import Section, render

Row = dict[str, Any]


def section(evidence: Evidence) -> Section | None:
    """A table a benchmark; None when none was run."""
    numbers = {
        "alpaca_eval": evidence.table("alpaca_eval", "alpaca_eval"),
        "mt_bench": evidence.table("mt_bench", "mt_bench"),
        "mt_bench_pairs": evidence.table("mt_bench", "mt_bench_pairs"),
        "arena_hard": evidence.table("arena_hard", "arena_hard"),
        "harness": evidence.table("harness", "harness"),
    }
    unread = [
        output.name
        for output in evidence.of_kind("alpaca_eval", "arena_hard")
        if not output.manifest.get("details", {}).get(output.kind)
    ]
    if not any(numbers.values()) and not unread:
        return None
    html = render(
        "sections/benchmarks.html.jinja",
        **numbers,
        unread=unread,
        categories=_categories(numbers["mt_bench"]),
        measures=[_measures(output.name, output.manifest["details"])
                  for output in evidence.of_kind("arena_hard")
                  if output.manifest.get("details", {}).get("arena_hard")],
        tasks=_tasks(numbers["harness"]),
        backends=sorted({str(output.manifest["details"].get("backend"))
                         for output in evidence.of_kind("harness")}),
    )  # fmt: skip
    return Section("benchmarks", "Benchmarks", html, numbers)


def _categories(rows: Sequence[Row]) -> list[str]:
    """All categories of the tables, in order of first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row["categories"]))


def _measures(stage: str, details: Row) -> Row:
    names = ("baseline", "separability", "agreement", "rank_correlation", "common_models")
    return {"stage": stage, **{name: details.get(name) for name in names}}


def _tasks(rows: Sequence[Row]) -> list[Row]:
    """Rows of whole benchmarks first, the parts that were averaged below them."""
    return sorted(rows, key=lambda row: ("__" in row["task"], rows.index(row)))
