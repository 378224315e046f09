"""Each method's win rate against the share of labels that were turned round."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rayonale.report import charts
from rayonale.report.evidence import Evidence
from rayonale.report.page import Section, render
from rayonale.report.text import judge_label
from rayonale.stages import StageOutput


def section(evidence: Evidence) -> Section | None:
    """Lines and a table; None unless policies come from worlds of several flip rates."""
    rows = list(_points(evidence))
    if len({row["flip_rate"] for row in rows}) < 2:
        return None
    rows.sort(key=lambda row: (row["judge"], row["method"], row["flip_rate"]))
    figures = []
    for judge in dict.fromkeys(row["judge"] for row in rows):
        methods: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            if row["judge"] == judge:
                methods.setdefault(row["method"], []).append(row)
        series = [
            charts.Series(
                method, f"s{1 + number % 8}", [100 * row["flip_rate"] for row in found],
                [100 * row["value"] for row in found], marks=True,
            )
            for number, (method, found) in enumerate(methods.items())
        ]  # fmt: skip
        figures.append(
            charts.lines(
                f"Win rate against wrong labels, {judge_label(judge)}", series,
                x_label="labels turned round (%)", y_label="win rate (%)", level=50.0,
                note="Against the SFT policy that was trained on the same labels.",
            )
        )  # fmt: skip
    html = render("sections/noise.html.jinja", plots=charts.grid(figures), rows=rows)
    return Section("noise", "Wrong labels", html, rows)


def _points(evidence: Evidence) -> Iterator[dict[str, Any]]:
    by_uri = {output.uri: output for output in evidence.outputs}
    by_name = {output.name: output for output in evidence.outputs}
    for stage in evidence.of_kind("win_rates"):
        for entry in stage.manifest.get("details", {}).get("win_rates", []):
            policy = by_name.get(entry["a"])
            rate = None if policy is None else flip_rate(policy, by_uri)
            if policy is None or rate is None or policy.kind != "train":
                continue
            loss = policy.manifest["settings"]["loss"]["name"]
            kept = {name: entry[name] for name in ("value", "low", "high", "pairs", "judge")}
            yield {"method": str(loss), "policy": entry["a"], "flip_rate": rate, **kept}


def flip_rate(output: StageOutput, by_uri: dict[str, StageOutput]) -> float | None:
    """Of the small world that a stage's rows come from; None where there is none."""
    if output.kind == "tinyworld_pairs":
        return float(output.manifest["settings"]["flip_rate"])
    read = output.manifest.get("inputs") or {}
    for role in ("rows", "raw"):
        parent = by_uri.get(read[role]["uri"]) if isinstance(read.get(role), dict) else None
        if parent is not None:
            return flip_rate(parent, by_uri)
    return None
