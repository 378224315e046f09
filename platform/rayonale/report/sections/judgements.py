"""Judges against labels: agreement, errors, bias, what cannot be read, and how pairs were made."""

from __future__ import annotations

from typing import Any

from rayonale.report import charts
from rayonale.report.evidence import Evidence
from rayonale.report.page import Section, render

_CHARTED = (
    ("accuracy", "Scores that are the label", "inputs (%)", 100.0),
    ("pearson", "Pearson correlation of scores", "r", 1.0),
    ("tie_aware", "Comparisons that agree with the label", "inputs (%)", 100.0),
)


def section(evidence: Evidence) -> Section | None:
    """Tables and charts; None without a judge_accuracy or curate stage."""
    judges = evidence.table("judge_accuracy", "judges")
    differences = evidence.table("judge_accuracy", "differences")
    curated = [
        {**output.manifest["details"]["curation"], "stage": output.name}
        for output in evidence.of_kind("curate")
    ]
    if not judges and not curated:
        return None
    figures = [_dots(judges, *chart) for chart in _CHARTED]
    figures.append(_errors(judges))
    html = render(
        "sections/judgements.html.jinja",
        plots=charts.grid(figures),
        points=[each for each in judges if each["kind"] == "pointwise"],
        pairs=[each for each in judges if each["kind"] != "pointwise"],
        judges=judges,
        differences=differences,
        curated=curated,
    )
    numbers = {"judges": judges, "differences": differences, "curation": curated}
    return Section("judgements", "Judges against labels", html, numbers)


def name_of(entry: dict[str, Any]) -> str:
    """A judge, and its strategy where it is not the plain one."""
    plain = entry["strategy"] == "first"
    return str(entry["judge"]) + ("" if plain else f", {entry['strategy']}")


def _css(number: int) -> str:
    return f"s{1 + number % 8}"


def _dots(judges: list[dict[str, Any]], measure: str, title: str, label: str, unit: float) -> Any:
    kinds = ("pointwise",) if measure != "tie_aware" else ("pairwise", "apart")
    mine = [each for each in judges if each["kind"] in kinds]
    dots = []
    for number, entry in enumerate(mine):
        found = entry["measures"].get(measure) or {}
        if found.get("value") is None or found.get("low") is None:
            continue
        dots.append(
            charts.Dot(
                name_of(entry), name_of(entry), _css(number),
                unit * found["value"], unit * found["low"], unit * found["high"],
            )
        )  # fmt: skip
    if not dots:
        return None
    return charts.dots(title, dots, x_label=label, x_range=(0.0, unit))


def _errors(judges: list[dict[str, Any]]) -> Any:
    """Score − label: shares of inputs."""
    series = []
    for number, entry in enumerate(each for each in judges if each["errors"]):
        total = sum(entry["errors"].values())
        if entry["strategy"] != "first" or not total:
            continue
        places = [int(error) for error in entry["errors"]]
        shares = [100 * n / total for n in entry["errors"].values()]
        series.append(charts.Series(name_of(entry), _css(number), places, shares, marks=True))
    return charts.lines(
        "Error of scores", series, x_label="score − label", y_label="inputs (%)",
        note="Above 0 the judge is too kind.",
    ) if series else None  # fmt: skip
