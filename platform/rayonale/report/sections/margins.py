"""Sorted log-prob margins of held-out pairs under each policy (the paper's figure)."""

from __future__ import annotations

from rayonale.evaluate.margins import slope_at_zero
from rayonale.report import charts
from rayonale.report.evidence import Evidence
from rayonale.report.page import Section, render


def section(evidence: Evidence) -> Section | None:
    """Curves and a table; None without a margins stage."""
    entries = evidence.table("margins", "margins")
    if not entries:
        return None
    order = evidence.policies(entry["policy"] for entry in entries)
    entries = sorted(entries, key=lambda entry: order.index(entry["policy"]))
    series = [
        charts.Series(
            entry["policy"], evidence.colour(entry["policy"]),
            [100 * (at + 0.5) / len(entry["sorted"]) for at in range(len(entry["sorted"]))],
            entry["sorted"],
        )
        for entry in entries
    ]  # fmt: skip
    plot = charts.lines(
        "Margins of held-out pairs, sorted", series, x_label="share of pairs (%)",
        y_label="β·Δ (nats)", level=0.0,
        note="Each curve is one policy's margins from smallest to largest. Where it crosses "
        "zero, the pairs to its right are ordered rightly.",
    )  # fmt: skip
    rows = [{**entry, "slope": slope_at_zero(entry["sorted"])} for entry in entries]
    html = render("sections/margins.html.jinja", plot=charts.grid([plot]), rows=rows,
                  colours=evidence.colours)  # fmt: skip
    numbers = [{k: v for k, v in entry.items() if k != "sorted"} for entry in rows]
    return Section("margins", "Log-prob margins", html, numbers)
