"""What was measured in each run, with intervals, and differences over the same prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from markupsafe import Markup

from rayonale.evaluate.statistics import mean_interval
from rayonale.report import charts
from rayonale.report.compare.measured import Quantity, Values, difference, measured
from rayonale.report.compare.runs import Aligned, Comparison, Run
from rayonale.report.drawing import span
from rayonale.report.page import Section, render

_KINDS = ("win_rates", "margins", "harness")
_DIGITS = 6  # of other metrics


def section(comparison: Comparison) -> Section | None:
    """A plot and a table for each kind of quantity, and all other metrics that differ."""
    rows = [row for stage in comparison.of_kind(*_KINDS) for row in _rows(comparison, stage)]
    others = other_metrics(comparison)
    if not rows and not others:
        return None
    groups = [
        {"what": what, "rows": [row for row in rows if row["what"] == what]}
        for what in dict.fromkeys(row["what"] for row in rows)
    ]
    html = render(
        "compare/results.html.jinja", groups=groups, others=others, runs=comparison.runs,
        first=comparison.runs[0], plots=charts.grid([_plot(comparison.runs, g) for g in groups]),
        unpaired=[row for row in rows if not any(row["differences"])],
    )  # fmt: skip
    return Section("results", "Results", html, {"measured": rows, "metrics": others})


def _rows(comparison: Comparison, stage: Aligned) -> list[dict[str, Any]]:
    """A row for each quantity that two runs or more have."""
    found: list[Values] = [measured(o) if o is not None else {} for o in stage.outputs]
    quantities = dict.fromkeys(q for values in found for q in values)
    return [
        _row(stage, quantity, found)
        for quantity in quantities
        if sum(quantity in values for values in found) > 1
    ]


def _row(stage: Aligned, quantity: Quantity, found: Sequence[Values]) -> dict[str, Any]:
    bounds = (0.0, 1.0) if quantity.share else None
    estimates = [
        mean_interval(list(values[quantity].values()), bounds=bounds).as_dict()
        if quantity in values
        else None
        for values in found
    ]
    first = found[0].get(quantity)
    differences = [
        difference(first, values[quantity]) if first and quantity in values else None
        for values in found[1:]
    ]
    return {
        "stage": stage.name,
        **asdict(quantity),
        "estimates": estimates,
        "differences": [asdict(d) if d is not None else None for d in differences],
    }


def _plot(runs: Sequence[Run], group: dict[str, Any]) -> Markup | None:
    """Dots with intervals: a band for each thing measured, a colour for each run."""
    dots = [
        charts.Dot(
            row["of"].replace(" against ", " vs "),
            run.label,
            run.css,
            *(e[n] for n in ("value", "low", "high")),
        )
        for row in group["rows"]
        if row["by"] == group["rows"][0]["by"]
        for run, e in zip(runs, row["estimates"], strict=True)
        if e is not None
    ]
    by = group["rows"][0]["by"]
    title = group["what"] + (f", {by}" if by else "")
    ends = [end for dot in dots for end in (dot.low, dot.high)]
    return charts.dots(title, dots, x_label=group["what"].lower(), x_range=span(ends, 0.1))


def other_metrics(comparison: Comparison) -> list[dict[str, Any]]:
    """Metrics of the manifests that differ, and are no speeds or times: [{stage, name, values}]."""
    rows = []
    for stage in comparison.stages:
        if stage.kind in (*_KINDS, "report"):
            continue
        found = [manifest.get("metrics") or {} for manifest in stage.manifests()]
        for name in dict.fromkeys(name for metrics in found for name in metrics):
            values = [metrics.get(name) for metrics in found]
            known = {value for value in values if value is not None}
            if "second" not in name and "memory" not in name and len(known) > 1:
                told = ["–" if v is None else f"{v:.{_DIGITS}g}" for v in values]
                rows.append({"stage": stage.name, "name": name, "values": told})
    return rows
