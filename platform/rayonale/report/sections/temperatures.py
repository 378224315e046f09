"""Win rates against the temperature at which answers were drawn."""

from __future__ import annotations

from typing import Any

from rayonale.report import charts
from rayonale.report.evidence import Evidence, temperature
from rayonale.report.page import Section, render
from rayonale.report.text import judge_label


def section(evidence: Evidence) -> Section | None:
    """A plot a judge and a table; None unless pairs were compared at several temperatures."""
    points: dict[tuple[str, str, str], dict[float, dict[str, Any]]] = {}
    for stage in evidence.outputs:
        if stage.kind != "win_rates" or (warmth := temperature(stage, evidence.outputs)) is None:
            continue
        for entry in stage.manifest.get("details", {}).get("win_rates") or []:
            key = (entry["judge"], entry["a"], entry["b"])
            points.setdefault(key, {}).setdefault(warmth, entry)
    points = {key: found for key, found in points.items() if len(found) > 1}
    if not points:
        return None
    rows = [
        {"judge": judge, "pair": f"{a} against {b}", "temperature": warmth, **_kept(entry)}
        for (judge, a, b), found in sorted(points.items())
        for warmth, entry in sorted(found.items())
    ]
    figures = [_plot(judge, rows) for judge in dict.fromkeys(row["judge"] for row in rows)]
    html = render("sections/temperatures.html.jinja", plots=charts.grid(figures), rows=rows)
    return Section("temperatures", "Temperatures", html, rows)


def _kept(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in ("value", "low", "high", "pairs")}


def _plot(judge: str, rows: list[dict[str, Any]]) -> Any:
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["judge"] == judge:
            lines.setdefault(row["pair"], []).append(row)
    series = [
        charts.Series(
            pair, f"s{1 + number % 8}", [row["temperature"] for row in found],
            [100 * row["value"] for row in found], marks=True,
        )
        for number, (pair, found) in enumerate(lines.items())
    ]  # fmt: skip
    return charts.lines(
        f"Win rate against temperature, {judge_label(judge)}", series, x_label="temperature",
        y_label="win rate (%)", level=50.0, note="Both sides are drawn at the same temperature.",
    )  # fmt: skip
