"""Win rates with intervals, per judge: a forest plot that is a table."""

from __future__ import annotations

from rayonale.report.evidence import Evidence
from rayonale.report.page import Section, render
from rayonale.report.text import judge_label


def section(evidence: Evidence) -> Section | None:
    """One table a judge; None without comparisons."""
    entries = evidence.table("win_rates", "win_rates")
    if not entries:
        return None
    judges = list(dict.fromkeys(entry["judge"] for entry in entries))
    tables = [
        {
            "judge": judge,
            "label": judge_label(judge),
            "kind": next(e["judge_kind"] for e in entries if e["judge"] == judge),
            "rows": [{**e, "css": evidence.colour(e["a"])} for e in entries if e["judge"] == judge],
        }
        for judge in judges
    ]
    html = render("sections/comparisons.html.jinja", tables=tables)
    return Section("win-rates", "Win rates", html, entries)
