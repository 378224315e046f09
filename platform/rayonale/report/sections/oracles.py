"""Reward models: how well they order pairs, and whether they are as sure as they are right."""

from __future__ import annotations

from typing import Any

from rayonale.report import charts
from rayonale.report.evidence import Evidence
from rayonale.report.page import Section, render

GROUPS = (
    ("by_score_gap", "Accuracy by gap of the scores", "gap of the stored scores"),
    ("by_confidence", "Accuracy by annotator's confidence", "confidence"),
    ("by_length", "Accuracy by length", "words by which the better response is longer"),
    ("by_category", "Accuracy by category", "category"),
)


def section(evidence: Evidence) -> Section | None:
    """Curves and tables; None without a reward_accuracy stage."""
    found = [
        {**output.manifest["details"], "stage": output.name}
        for output in evidence.of_kind("reward_accuracy")
    ]
    splits = evidence.of_kind("ambiguity")
    if not found and not splits:
        return None
    figures = [_reliability(found)] + [_dots(found, *group) for group in GROUPS]
    tables = [
        {**output.manifest["details"], "stage": output.name, "kept": output.manifest["settings"]}
        for output in splits
    ]
    html = render(
        "sections/oracles.html.jinja", plots=charts.grid(figures), rows=found, splits=tables
    )
    return Section("oracles", "Reward models", html, {"accuracy": found, "ambiguity": tables})


def _css(number: int) -> str:
    return f"s{1 + number % 8}"


def _reliability(found: list[dict[str, Any]]) -> Any:
    series = [
        charts.Series(
            one["stage"],
            _css(number),
            [100 * each["probability"] for each in one["reliability"]],
            [100 * each["accuracy"] for each in one["reliability"]],
            marks=True,
        )
        for number, one in enumerate(found)
    ]
    if not series:
        return None
    series.append(
        charts.Series("as sure as right", "s0", [50.0, 100.0], [50.0, 100.0], dashed=True)
    )
    return charts.lines(
        "Reliability", series, x_label="probability given to its choice (%)",
        y_label="right (%)", y_range=(0.0, 100.0),
        note="Below the dashed line the model is surer than it is right.",
    )  # fmt: skip


def _dots(found: list[dict[str, Any]], name: str, title: str, what: str) -> Any:
    dots = [
        charts.Dot(
            each["group"], one["stage"], _css(number),
            100 * each["value"], 100 * each["low"], 100 * each["high"],
        )
        for number, one in enumerate(found)
        for each in one[name]
    ]  # fmt: skip
    if not dots:
        return None
    return charts.dots(
        title, dots, x_label="ordered rightly (%)", x_range=(0.0, 100.0), note=f"Rows: {what}."
    )
