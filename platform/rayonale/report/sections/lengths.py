"""How long the policies' answers are: a policy must not win by length alone."""

from __future__ import annotations

from rayonale.report import charts
from rayonale.report.evidence import Evidence
from rayonale.report.page import Section, render


def section(evidence: Evidence) -> Section | None:
    """Distributions and means; None without comparisons."""
    entries = list(
        {(e["policy"], e["unit"]): e for e in evidence.table("win_rates", "lengths")}.values()
    )
    if not entries:
        return None
    order = evidence.policies(entry["policy"] for entry in entries)
    entries.sort(key=lambda entry: order.index(entry["policy"]))
    figures = [
        charts.ridges(
            f"Length of answers in {unit}",
            [
                charts.Histogram(
                    e["policy"], evidence.colour(e["policy"]), e["edges"], e["counts"], e["value"]
                )
                for e in entries
                if e["unit"] == unit
            ],
            x_label=f"length ({unit})",
            note="Height is the share of a policy's answers; the line is the mean; the last bar "
            "holds everything longer.",
        )
        for unit in dict.fromkeys(entry["unit"] for entry in entries)
    ]
    html = render(
        "sections/lengths.html.jinja", plots=charts.grid(figures), rows=entries,
        colours=evidence.colours,
    )  # fmt: skip
    numbers = [{k: v for k, v in e.items() if k not in ("edges", "counts")} for e in entries]
    return Section("lengths", "Lengths", html, numbers)
