"""Mean score of each policy, overall and by attribute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from rayonale.evaluate.scorers import SCORERS
from rayonale.report import charts
from rayonale.report.drawing import span
from rayonale.report.evidence import Evidence
from rayonale.report.page import Section, render
from rayonale.report.text import judge_label


def section(evidence: Evidence) -> Section | None:
    """Dots with intervals; None when no scorer was used."""
    entries = _once(evidence.table("win_rates", "scores"))
    if not entries:
        return None
    figures = [
        figure
        for scorer in dict.fromkeys(entry["scorer"] for entry in entries)
        for figure in _figures(evidence, [e for e in entries if e["scorer"] == scorer], scorer)
    ]
    policies = evidence.policies(e["policy"] for e in entries)
    overall = {(e["scorer"], e["policy"]): e for e in entries if e["attribute"] == "overall"}
    html = render(
        "sections/scores.html.jinja",
        plots=charts.grid(figures),
        rows=[overall[key] for key in sorted(overall, key=lambda k: policies.index(k[1]))],
    )
    return Section("scores", "Scores", html, entries)


def _once(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each (scorer, policy, attribute) once, though several stages may have it."""
    return list({(e["scorer"], e["policy"], e["attribute"]): e for e in entries}.values())


def _figures(
    evidence: Evidence, entries: Sequence[dict[str, Any]], scorer: str
) -> list[Markup | None]:
    known = SCORERS.get(scorer)
    label = judge_label(scorer)
    overall = [e for e in entries if e["attribute"] == "overall"]
    parts = [e for e in entries if e["attribute"] != "overall"]
    return [
        charts.dots(
            f"Mean score of each policy, {label}", _dots(evidence, overall, by_policy=True),
            x_label="overall score" + _range_text(known.overall_range if known else None),
            x_range=span([v for e in overall for v in (e["low"], e["high"])], 0.1),
        ),
        charts.dots(
            f"Mean of each attribute, {label}", _dots(evidence, parts, by_policy=False),
            x_label="attribute score" + _range_text(known.attribute_range if known else None),
            x_range=span([v for e in parts for v in (e["low"], e["high"])], 0.1),
        ),
    ]  # fmt: skip


def _dots(
    evidence: Evidence, entries: Sequence[dict[str, Any]], *, by_policy: bool
) -> list[charts.Dot]:
    order = evidence.policies(e["policy"] for e in entries)
    ordered = sorted(entries, key=lambda e: order.index(e["policy"]))
    names = dict.fromkeys(e["attribute"] for e in entries)
    return [
        charts.Dot(
            row=e["policy"] if by_policy else e["attribute"],
            name="mean and interval" if by_policy else e["policy"],
            css=evidence.colour(e["policy"]), value=e["value"], low=e["low"], high=e["high"],
        )
        for name in names
        for e in ordered
        if e["attribute"] == name
    ]  # fmt: skip


def _range_text(found: tuple[float, float] | None) -> str:
    return f" (scale {found[0]:g}–{found[1]:g})" if found else ""
