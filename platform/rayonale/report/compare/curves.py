"""Training curves of the same stage of every run, laid over each other."""

from __future__ import annotations

from markupsafe import Markup

from rayonale.report import charts
from rayonale.report.compare.runs import Aligned, Comparison
from rayonale.report.page import Section, render
from rayonale.report.sections.training import SMOOTH, smoothed

# (name of the curve, title, axis label, a line for orientation)
Curve = tuple[str, str, str, float | None]
_CURVES: tuple[Curve, ...] = (
    ("loss", "training loss", "loss (nats)", None),
    ("validation/loss", "validation loss", "loss (nats)", None),
    ("rewards/accuracy", "pairs ordered rightly", "share", 0.5),
    ("rewards/margin", "implicit reward margin", "β·Δ (nats)", 0.0),
)


def section(comparison: Comparison) -> Section | None:
    """A plot for each stage and curve; None when no stage was trained in two runs.

    A training that all runs share is one curve, and is left out.
    """
    stages = [stage for stage in comparison.of_kind("train") if not shared(stage)]
    figures = [
        found
        for stage in stages
        for curve in _CURVES
        if (found := overlaid(comparison, stage, curve)) is not None
    ]
    if not figures:
        return None
    html = render("compare/curves.html.jinja", plots=charts.grid(figures), smooth=SMOOTH)
    return Section("curves", "Training curves", html, {"stages": [stage.name for stage in stages]})


def shared(stage: Aligned) -> bool:
    """Whether it is one and the same output in all runs."""
    return len({output.uri if output is not None else None for output in stage.outputs}) == 1


def overlaid(comparison: Comparison, stage: Aligned, curve: Curve) -> Markup | None:
    """One curve of one stage, a line a run; None where fewer than two runs have it."""
    name, title, label, level = curve
    series = []
    for run, manifest in zip(comparison.runs, stage.manifests(), strict=True):
        curves = (manifest.get("details") or {}).get("curves") or {}
        marks = name.startswith("validation/")
        steps, values = curves.get("validation/step" if marks else "step"), curves.get(name)
        if not steps or not values or len(steps) != len(values):
            continue
        if not marks:
            values = smoothed(values, curves.get("tokens"))
        # Dashed after the first, so that a curve under another one is seen.
        dashed = run is not comparison.runs[0]
        series.append(charts.Series(run.label, run.css, steps, values, dashed=dashed, marks=marks))
    single = name.startswith("validation/") and all(len(one.xs) < 2 for one in series)
    if len(series) < 2 or single:  # a single point is told among the metrics
        return None
    return charts.lines(f"{stage.name}: {title}", series, x_label="optimiser step",
                        y_label=label, level=level)  # fmt: skip
