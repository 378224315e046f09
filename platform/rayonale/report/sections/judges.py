"""How far the judges can be trusted: flips, order bias, unreadable verdicts, agreement."""

from __future__ import annotations

from typing import Any

from rayonale.report.evidence import Evidence
from rayonale.report.page import Section, render


def section(evidence: Evidence) -> Section | None:
    """A table of LLM judges; None when none was used."""
    entries = [e for e in evidence.table("win_rates", "win_rates") if e["judge_kind"] == "llm"]
    if not entries:
        return None
    rows = [
        _judge(judge, entries, evidence) for judge in dict.fromkeys(e["judge"] for e in entries)
    ]
    facts = {fact["judge"]: fact for fact in evidence.table("win_rates", "judges")}
    html = render("sections/judges.html.jinja", rows=rows, facts=facts)
    return Section("judges", "The judges", html, rows)


def _judge(judge: str, entries: list[dict[str, Any]], evidence: Evidence) -> dict[str, Any]:
    """One judge over all its comparisons, weighted by pairs."""
    mine = [entry for entry in entries if entry["judge"] == judge]
    pairs = sum(entry["pairs"] for entry in mine)
    unreadable = sum(entry["unreadable"] for entry in mine)
    return {
        "judge": judge,
        "pairs": pairs,
        "flip_rate": _weighted(mine, "flip_rate"),
        "first_share": _weighted(mine, "first_share"),
        "unreadable": unreadable,
        "unreadable_share": unreadable / (pairs + unreadable) if pairs + unreadable else None,
        "agreement": [
            one for one in evidence.table("win_rates", "agreement") if one["judge"] == judge
        ],
    }


def _weighted(entries: list[dict[str, Any]], name: str) -> float | None:
    known = [entry for entry in entries if entry.get(name) is not None]
    pairs = sum(entry["pairs"] for entry in known)
    return sum(entry[name] * entry["pairs"] for entry in known) / pairs if pairs else None
