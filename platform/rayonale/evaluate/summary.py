"""What comparisons add up to: win rates, scores, lengths, agreement of judges.

Every function takes the stage's rows and returns plain JSON-able tables, which the report shows
and `metrics` flattens for MLflow. The unit of every interval is the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rayonale.evaluate.policies import PolicySamples
from rayonale.evaluate.statistics import (
    by_prompt,
    cohen_kappa,
    mean_interval,
    sign_flip_test,
    win_rate,
)
from rayonale.records import RejectKind

Row = dict[str, Any]

# Kinds of judges that give each response a number.
SCORING = ("scorer", "oracle")
# Bars of a length histogram.
_BINS = 24


def reject(row: Mapping[str, Any], kind: RejectKind, reason: str, detail: str) -> Row:
    """A comparison that is left out, as a row of schema REJECT."""
    return {
        "id": row["id"],
        "kind": str(kind),
        "reason": reason,
        "detail": detail,
        "source": None,
        "line": None,
        "row": json.dumps(row, ensure_ascii=False, default=str),
    }


def win_rates(
    rows: Sequence[Row], rejects: Sequence[Row], *, level: float = 0.95, seed: int = 0
) -> list[Row]:
    """One entry a comparison and judge: the win rate of a with interval, counts, test.

    `unreadable_share` is of all pairs that the judge saw; `flip_rate` of the readable ones.
    `p_value` is two-sided: that a and b win equally often.
    """
    lost = _left_out(rejects)
    found = []
    for (comparison, judge), group in _grouped(rows, "comparison", "judge").items():
        outcomes = [row["outcome"] for row in group]
        prompts = [row["prompt_id"] for row in group]
        means = by_prompt(outcomes, prompts)
        unreadable = lost.get((comparison, judge), 0)
        first = group[0]
        found.append(
            {
                "comparison": comparison,
                "a": first["policy_a"],
                "b": first["policy_b"],
                "judge": judge,
                "judge_kind": first["judge_kind"],
                **win_rate(outcomes, prompts, seed=seed, level=level).as_dict(),
                "pairs": len(group),
                "wins": sum(outcome > 0.5 for outcome in outcomes),
                "ties": outcomes.count(0.5),
                "losses": sum(outcome < 0.5 for outcome in outcomes),
                "p_value": sign_flip_test([mean - 0.5 for mean in means.values()], seed=seed),
                "flip_rate": _share_flipped(group),
                "unreadable": unreadable,
                "unreadable_share": unreadable / (unreadable + len(group)),
                "first_share": _share_first(group),
            }
        )
    return found


def _left_out(rejects: Sequence[Row]) -> dict[tuple[str, str], int]:
    """(comparison, judge) → pairs that the judge could not decide."""
    lost: dict[tuple[str, str], int] = {}
    for row in rejects:
        about = json.loads(row["row"])
        if row["kind"] == RejectKind.INVALID and "judge" in about:
            key = (about["comparison"], about["judge"])
            lost[key] = lost.get(key, 0) + 1
    return lost


def _share_flipped(group: Sequence[Row]) -> float | None:
    flips = [row["flipped"] for row in group if row.get("flipped") is not None]
    return sum(flips) / len(flips) if flips else None


def _share_first(group: Sequence[Row]) -> float | None:
    """How often the judge named the response shown first, over both orders; 0.5 is unbiased."""
    told = [row[name] for row in group for name in ("verdict_ab", "verdict_ba") if row.get(name)]
    named = [verdict for verdict in told if verdict != 1.5]
    return sum(verdict < 1.5 for verdict in named) / len(named) if named else None


def scores(rows: Sequence[Row], *, level: float = 0.95, seed: int = 0) -> list[Row]:
    """Mean score of every policy by every scorer: overall, then each attribute.

    Each response counts once, however many comparisons it is part of.
    """
    found = []
    for judge, group in _grouped(rows, "judge").items():
        if group[0]["judge_kind"] not in SCORING:
            continue
        values: dict[tuple[str, str], dict[tuple[str, int], float]] = {}
        for row in group:
            for side in ("a", "b"):
                place = (row["prompt_id"], row["sample"])
                policy = row[f"policy_{side}"]
                values.setdefault((policy, "overall"), {})[place] = row[f"score_{side}"]
                for part in row[f"attributes_{side}"]:
                    values.setdefault((policy, part["name"]), {})[place] = part["value"]
        for (policy, attribute), scored in values.items():
            means = by_prompt(list(scored.values()), [prompt for prompt, _ in scored])
            estimate = mean_interval(list(means.values()), seed=seed, level=level)
            found.append(
                {
                    "scorer": judge[0],
                    "policy": policy,
                    "attribute": attribute,
                    **estimate.as_dict(),
                }
            )
    return found


def advantages(rows: Sequence[Row], *, level: float = 0.95, seed: int = 0) -> list[Row]:
    """Expected advantage of a over b by every judge that gives numbers: mean of score a − score b.

    The paper's "expected reward advantage", where the judge is an oracle and b the SFT policy or
    the reference texts.
    """
    found = []
    for (comparison, judge), group in _grouped(rows, "comparison", "judge").items():
        first = group[0]
        if first["judge_kind"] in SCORING:
            apart = [row["score_a"] - row["score_b"] for row in group]
            means = by_prompt(apart, [row["prompt_id"] for row in group])
            estimate = mean_interval(list(means.values()), seed=seed, level=level)
            names = {"comparison": comparison, "a": first["policy_a"], "b": first["policy_b"]}
            found.append({**names, "judge": judge, **estimate.as_dict()})
    return found


def lengths(policies: Sequence[PolicySamples], *, level: float = 0.95, seed: int = 0) -> list[Row]:
    """Length of each policy's responses in characters and, where counted, in tokens.

    The bins of a unit's histograms are the same for all policies, so that they can be laid over
    each other.
    """
    found = []
    for unit in ("characters", "tokens"):
        measured = {policy.label: _lengths_of(policy, unit) for policy in policies}
        if not all(measured.values()):
            continue
        everything = [length for found_ in measured.values() for _, length in found_]
        top = max(float(np.quantile(everything, 0.995)), 1.0)
        edges = np.linspace(0, top, _BINS + 1)
        for label, by_id in measured.items():
            array = np.array([length for _, length in by_id])
            counts, _ = np.histogram(np.minimum(array, top), bins=edges)
            means = by_prompt(array.tolist(), [key for key, _ in by_id])
            found.append(
                {
                    "policy": label,
                    "unit": unit,
                    **mean_interval(list(means.values()), seed=seed, level=level).as_dict(),
                    "responses": len(by_id),
                    "quantiles": np.quantile(array, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist(),
                    "edges": [round(float(edge), 3) for edge in edges],
                    "counts": counts.tolist(),
                }
            )
    return found


def _lengths_of(policy: PolicySamples, unit: str) -> list[tuple[str, int]]:
    """(prompt id, length) of every response; nothing when tokens were not counted."""
    found: list[tuple[str, int]] = []
    for key, answers in policy.answers.items():
        for response, tokens in zip(answers.responses, answers.tokens, strict=True):
            if unit == "tokens" and tokens is None:
                return []
            found.append((key, len(response) if unit == "characters" else int(tokens or 0)))
    return found


def agreement(rows: Sequence[Row]) -> list[Row]:
    """How far LLM judges agree with each scorer, on the pairs that both judged.

    `agreement` is of the pairs that neither calls a tie (what a coin gets half right);
    `kappa` is Cohen's over the three outcomes.
    """
    by_judge = _grouped(rows, "judge")
    truth = {
        name: {_place(row): row["outcome"] for row in group}
        for (name,), group in by_judge.items()
        if group[0]["judge_kind"] == "scorer"
    }
    found = []
    for (judge,), group in by_judge.items():
        if group[0]["judge_kind"] == "scorer":
            continue
        for scorer, known in truth.items():
            both = [(_side(r["outcome"]), known[_place(r)]) for r in group if _place(r) in known]
            decided = [(a, b) for a, b in both if a != 0.5 and b != 0.5]
            if both:
                found.append(
                    {
                        "judge": judge,
                        "scorer": scorer,
                        "pairs": len(both),
                        "decided": len(decided),
                        "agreement": (
                            sum(a == b for a, b in decided) / len(decided) if decided else None
                        ),
                        "kappa": cohen_kappa([a for a, _ in both], [b for _, b in both]),
                    }
                )
    return found


def _side(outcome: float) -> float:
    """The nearest of 0, ½ (exactly) and 1: soft outcomes name a side, too."""
    return 0.5 if outcome == 0.5 else float(outcome > 0.5)


def _place(row: Row) -> tuple[str, str, int]:
    return row["comparison"], row["prompt_id"], row["sample"]


def metrics(details: Mapping[str, Any]) -> dict[str, float]:
    """The tables as flat names and numbers, for MLflow and the manifest."""
    flat: dict[str, float | None] = {}
    for entry in details["win_rates"]:
        at = f"win_rate/{entry['comparison']}/{entry['judge']}"
        flat[at] = entry["value"]
        for name in ("low", "high", "p_value", "flip_rate", "unreadable_share"):
            flat[f"{at}/{name}"] = entry[name]
    for entry in details["scores"]:
        flat[f"score/{entry['policy']}/{entry['scorer']}/{entry['attribute']}"] = entry["value"]
    for entry in details.get("advantages", ()):
        flat[f"advantage/{entry['comparison']}/{entry['judge']}"] = entry["value"]
    for entry in details["lengths"]:
        flat[f"length/{entry['policy']}/{entry['unit']}"] = entry["value"]
    for entry in details["agreement"]:
        at = f"agreement/{entry['judge']}/{entry['scorer']}"
        flat[at], flat[f"{at}/kappa"] = entry["agreement"], entry["kappa"]
    return {name: float(value) for name, value in flat.items() if value is not None}


def _grouped(rows: Iterable[Row], *columns: str) -> dict[tuple[str, ...], list[Row]]:
    """Rows by the values of some columns, in order of first appearance."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return groups
