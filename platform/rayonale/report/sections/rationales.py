"""Grades of rationales on the four criteria, kept and dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from rayonale import storage
from rayonale.report import charts
from rayonale.report.evidence import Evidence, columns
from rayonale.report.page import Section, render
from rayonale.stages import StageOutput

CRITERIA = ("helpfulness", "relatedness", "correctness", "coherence")
GRADES = (1, 2, 3, 4, 5)

Grades = dict[str, Counter[int]]


def section(evidence: Evidence) -> Section | None:
    """Histograms per grading stage; None when nothing was graded."""
    shown = []
    for stage in evidence.of_kind("grade_rationales"):
        kept = _count(_rows_of(stage))
        dropped = _dropped(stage, kept)
        total = sum(kept["coherence"].values()), sum(dropped["coherence"].values())
        if sum(total):
            shown.append((stage, kept, dropped, total))
    if not shown:
        return None
    parts = [("kept", "s1"), ("dropped", "s0")]
    blocks = []
    for stage, kept, dropped, total in shown:
        figures = [
            charts.bars(
                criterion.capitalize(),
                [charts.Bar(str(g), (kept[criterion][g], dropped[criterion][g])) for g in GRADES],
                parts, x_label="grade (1–5)", y_label="rationales",
            )
            for criterion in CRITERIA
        ]  # fmt: skip
        blocks.append(
            {"stage": stage.name, "plots": charts.grid(figures), "kept": total[0],
             "dropped": total[1], "means": {c: _mean(kept[c] + dropped[c]) for c in CRITERIA}}
        )  # fmt: skip
    html = render("sections/rationales.html.jinja", blocks=blocks)
    numbers = [{k: v for k, v in block.items() if k != "plots"} for block in blocks]
    return Section("grades", "Rationale grades", html, numbers)


def _rows_of(stage: StageOutput) -> Iterator[dict[str, Any]]:
    if "rationales" in columns(stage):
        yield from storage.read_rows(stage.rows, ["rationales"])


def _dropped(stage: StageOutput, kept: Grades) -> Grades:
    """Grades of dropped rationales: all that the stage counted, less those of the kept ones."""
    counted = stage.manifest.get("details", {}).get("grades") or {}
    return {
        criterion: Counter({int(g): int(n) for g, n in counted.get(criterion, {}).items()})
        - kept[criterion]
        for criterion in CRITERIA
    }


def _count(rows: Iterable[dict[str, Any]]) -> Grades:
    """criterion → how often each grade was given."""
    counted: Grades = {criterion: Counter() for criterion in CRITERIA}
    for row in rows:
        for rationale in row.get("rationales") or []:
            grades = (rationale or {}).get("grades") or {}
            for criterion in CRITERIA:
                if isinstance(grades.get(criterion), int):
                    counted[criterion][grades[criterion]] += 1
    return counted


def _mean(counts: Counter[int]) -> float | None:
    total = sum(counts.values())
    return sum(grade * count for grade, count in counts.items()) / total if total else None
