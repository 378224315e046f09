"""Goals: the score that a policy gives against the score that it is asked for."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from rayonale.report import charts
from rayonale.report.evidence import Evidence
from rayonale.report.page import Section, render


def section(evidence: Evidence) -> Section | None:
    """Curves and tables; None without a goal_control stage or relabelled rows."""
    curves = evidence.table("goal_control", "curves")
    table = evidence.table("goal_control", "table")
    relabelled = [
        {"stage": output.name, **output.manifest["details"], "rejects": output.manifest["rejects"]}
        for output in evidence.of_kind("relabel")
    ]
    if not curves and not relabelled:
        return None
    names = list(dict.fromkeys(curve["name"] for curve in curves))
    figures = [_plot(evidence, [c for c in curves if c["name"] == name], name) for name in names]
    steered = [row for row in table if row["goal"] and len(row["goal"]) > 1]
    html = render(
        "sections/goals.html.jinja", plots=charts.grid(figures), curves=curves,
        relabelled=relabelled, steered=_steered(steered), colours=evidence.colours,
    )  # fmt: skip
    return Section("goals", "Goals", html, {"curves": curves, "table": table, "rows": relabelled})


def _plot(evidence: Evidence, curves: list[dict[str, Any]], name: str) -> Markup | None:
    series = [
        charts.Series(
            curve["policy"], evidence.colour(curve["policy"]),
            [point["goal"] for point in curve["points"]],
            [point["value"] for point in curve["points"]],
            marks=True, bars=[(point["low"], point["high"]) for point in curve["points"]],
        )
        for curve in curves
    ]  # fmt: skip
    note = "" if name == "overall" else "All other attributes are asked for at their best."
    return charts.lines(
        f"Score given for the score asked: {name}", series, x_label="asked for",
        y_label=f"mean true score: {name}", note=note,
    )  # fmt: skip


def _steered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line a samples stage: what was asked, and what was given of that."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        line = found.setdefault(
            row["samples"], {"policy": row["policy"], "goal": row["goal"], "given": {}}
        )
        if row["name"] in row["goal"] or row["name"] == "overall":
            line["given"][row["name"]] = row
    return list(found.values())
