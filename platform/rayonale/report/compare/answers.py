"""Answers of every run's policies to the same prompts, side by side."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any

from rayonale import storage
from rayonale.evaluate.policies import labels
from rayonale.report.compare.runs import Comparison, Run
from rayonale.report.evidence import has_rows
from rayonale.report.page import Section, render
from rayonale.report.text import conversation, judge_label, visible
from rayonale.stages import StageOutput

Scores = Mapping[tuple[str, str], str]  # (policy, prompt id) → what scorers say


def section(comparison: Comparison) -> Section | None:
    """Cards of prompts that all runs answered; None when fewer than two runs have samples."""
    sampled = {run.label: _sampled(run) for run in comparison.runs}
    answered = [run for run in comparison.runs if sampled[run.label]]
    if len(answered) < 2:
        return None
    ids = [_ids(sampled[run.label]) for run in answered]
    common = set.intersection(*ids)
    wanted = set(heapq.nsmallest(comparison.limits.answers, common))
    cards: dict[str, dict[str, Any]] = {}
    for run in answered:
        scores = _scores(run, wanted)
        for policy, output in sampled[run.label].items():
            _add(cards, run, policy, output, wanted=wanted, scores=scores, comparison=comparison)
    shown = [_by_policy(cards[key]) for key in sorted(cards)]
    html = render(
        "compare/answers.html.jinja", shown=len(shown), common=len(common),
        each=[(run.label, len(found)) for run, found in zip(answered, ids, strict=True)],
    )  # fmt: skip
    numbers = {"common": len(common), "prompts": sorted(cards)}
    data = {"answers": shown} if shown else {}
    return Section("answers", "Answers side by side", html, numbers, data)


def _by_policy(card: dict[str, Any]) -> dict[str, Any]:
    """The same policy's answers of all runs stand together."""
    order = {policy: at for at, policy in enumerate(dict.fromkeys(card.pop("policies")))}
    card["texts"].sort(key=lambda text: order[text.pop("policy")])
    return card


def _sampled(run: Run) -> dict[str, StageOutput]:
    """Policy → the stage that sampled it."""
    outputs = [stage for stage in run.of_kind("samples") if has_rows(stage)]
    return dict(zip(labels(outputs), outputs, strict=True))


def _ids(outputs: Mapping[str, StageOutput]) -> set[str]:
    found = [{row["id"] for row in storage.read_rows(o.rows, ["id"])} for o in outputs.values()]
    return set.intersection(*found)


def _scores(run: Run, wanted: set[str]) -> Scores:
    """What exact scorers gave the first answers."""
    found: dict[tuple[str, str], str] = {}
    columns = ["prompt_id", "sample", "judge", "judge_kind", "policy_a", "policy_b", "score_a",
               "score_b"]  # fmt: skip
    for stage in run.of_kind("win_rates"):
        for row in storage.read_rows(stage.rows, columns) if has_rows(stage) else ():
            if row["judge_kind"] == "scorer" and row["prompt_id"] in wanted and row["sample"] == 0:
                for side in ("a", "b"):
                    key = (row[f"policy_{side}"], row["prompt_id"])
                    found[key] = f"{judge_label(row['judge'])} {row[f'score_{side}']:g}"
    return found


def _add(
    cards: dict[str, dict[str, Any]],
    run: Run,
    policy: str,
    output: StageOutput,
    *,
    wanted: set[str],
    scores: Scores,
    comparison: Comparison,
) -> None:
    """Put a policy's first answers onto the prompts' cards."""
    limit = comparison.limits.text
    for row in storage.read_rows(output.rows, ["id", "prompt", "responses"]):
        if row["id"] not in wanted:
            continue
        card = cards.setdefault(
            row["id"],
            {"id": row["id"], "prompt": conversation(row["prompt"], limit), "facts": "",
             "texts": [], "notes": [], "policies": []},
        )  # fmt: skip
        text = row["responses"][0] if row["responses"] else ""
        card["policies"].append(policy)
        card["texts"].append(
            {
                "policy": policy,
                "label": f"{run.label}: {policy}",
                "mark": run.css,
                "facts": scores.get((policy, row["id"]), ""),
                "text": visible(text, limit),
            }
        )
