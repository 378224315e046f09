"""What came out, in words, first thing on the page."""

from __future__ import annotations

from dataclasses import asdict

from rayonale.evaluate.scorers import SCORERS
from rayonale.report.claims import Claim, Trained, claims, flip_rates, headline
from rayonale.report.evidence import Evidence
from rayonale.report.page import Section, render


def section(evidence: Evidence) -> Section | None:
    """Cards of claims: one a question, with every judge's answer; or that no judge had one."""
    compared = evidence.table("win_rates", "win_rates")
    entries = [e for e in compared if not evidence.cells.keys() & {e["a"], e["b"]}]
    if compared and not entries:
        return None  # all are cells of a sweep: one seed's answer is none, the study has it
    judges = [fact["judge"] for fact in evidence.table("win_rates", "judges")]
    if not entries and not judges:
        return None
    if not entries:
        told = [
            f"There is no win rate: no comparison has a verdict of {' or '.join(judges)} that can "
            "be read. Rows and rejects has the reasons, with examples."
        ]
        html = render("sections/headline.html.jinja", cards={}, told=told)
        return Section("result", "Result", html, [])
    exact = frozenset(name for name, entry in SCORERS.items() if entry.exact)
    found = claims(entries, trained(evidence), exact)
    cards: dict[str, list[Claim]] = {}
    for claim in found:
        cards.setdefault(claim.question, []).append(claim)
    html = render(
        "sections/headline.html.jinja", cards=cards, told=headline(found, flip_rates(entries))
    )
    return Section("result", "Result", html, [asdict(claim) for claim in found])


def trained(evidence: Evidence) -> dict[str, Trained]:
    """How each policy was trained."""
    found = {}
    for output in evidence.of_kind("train"):
        details = output.manifest.get("details", {})
        loss = details.get("loss") or output.manifest.get("settings", {}).get("loss") or {}
        name = loss.get("name", "") if isinstance(loss, dict) else str(loss)
        # With goals told a pair is several rows, or none: how many pairs there were is not known.
        told = bool(details.get("goal_prompt"))
        pairs = 0 if told else int(output.manifest.get("rows_out") or 0)
        found[output.name] = Trained(output.name, str(name), pairs)
    return found
