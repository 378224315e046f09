"""The policies' answers to the same prompts, side by side, with scores and judgements."""

from __future__ import annotations

import heapq
from typing import Any

from rayonale import storage
from rayonale.report.evidence import Evidence, has_rows
from rayonale.report.page import Section, render
from rayonale.report.text import conversation, judge_label, visible
from rayonale.stages import StageOutput


def section(evidence: Evidence) -> Section | None:
    """Answers out of the comparisons' rows; None where nothing was compared."""
    stages = [stage for stage in evidence.of_kind("win_rates") if has_rows(stage)]
    if not stages:
        return None
    wanted = _prompts(stages, evidence.limits.answers)
    if not wanted:
        return None
    cards: dict[str, dict[str, Any]] = {}
    for stage in stages:
        for row in storage.read_rows(stage.rows):
            if row["prompt_id"] in wanted and row["sample"] == 0 and row["repeat"] == 0:
                _add(cards.setdefault(row["prompt_id"], _card(row, evidence)), row, evidence)
    shown = [_finished(cards[key], evidence) for key in sorted(cards)]
    html = render("sections/answers.html.jinja", shown=len(shown))
    return Section(
        "answers", "Answers side by side", html, {"shown": len(shown)}, {"answers": shown}
    )


def _prompts(stages: list[StageOutput], size: int) -> set[str]:
    """The smallest ids (they are hashes): the same sample every time."""
    ids = {
        row["prompt_id"] for stage in stages for row in storage.read_rows(stage.rows, ["prompt_id"])
    }
    return set(heapq.nsmallest(size, ids))


def _card(row: dict[str, Any], evidence: Evidence) -> dict[str, Any]:
    return {
        "id": row["prompt_id"],
        "prompt": conversation(row["prompt"], evidence.limits.text),
        "facts": "",
        "answers": {},
        "notes": [],
    }


def _add(card: dict[str, Any], row: dict[str, Any], evidence: Evidence) -> None:
    """Put one judge's opinion of one pair onto the prompt's card."""
    limit = evidence.limits.text
    for side in ("a", "b"):
        policy = row[f"policy_{side}"]
        if policy in evidence.hidden:
            continue
        answer = card["answers"].setdefault(
            policy, {"text": visible(row[f"response_{side}"], limit), "scores": {}}
        )
        if row["judge_kind"] == "scorer":
            answer["scores"][row["judge"]] = _score(row, side)
    if row["judge_kind"] == "llm" and evidence.hidden.isdisjoint(
        (row["policy_a"], row["policy_b"])
    ):
        sides = f"{row['policy_a']} against {row['policy_b']}"
        winner = {1.0: row["policy_a"], 0.0: row["policy_b"]}.get(row["outcome"], "tie")
        flipped = " (the two orders disagree)" if row["flipped"] else ""
        card["notes"].append(
            {
                "label": f"{sides}, {judge_label(row['judge'])}",
                "facts": f"verdict: {winner}{flipped}",
                "text": visible(
                    f"{row['policy_a']} first: {row['text_ab']}\n"
                    f"{row['policy_b']} first: {row['text_ba']}",
                    limit,
                ),
            }
        )


def _score(row: dict[str, Any], side: str) -> str:
    parts = ", ".join(f"{p['name']} {p['value']:g}" for p in row[f"attributes_{side}"] or [])
    return f"{judge_label(row['judge'])} {row[f'score_{side}']:g}" + (
        f" ({parts})" if parts else ""
    )


def _finished(card: dict[str, Any], evidence: Evidence) -> dict[str, Any]:
    answers = card.pop("answers")
    card["texts"] = [
        {
            "label": policy,
            "mark": evidence.colour(policy),
            "facts": "; ".join(answers[policy]["scores"].values()),
            "text": answers[policy]["text"],
        }
        for policy in evidence.policies(answers)
    ]
    return card
