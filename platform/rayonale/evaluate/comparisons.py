"""From scores and verdicts to outcomes: which of two responses is better, by one judge.

    scorer     score_a, score_b                            → outcome
    LLM judge  verdict of (a first, b second)  ─┐
               verdict of (b first, a second)  ─┴─ agree?  → outcome; disagree → tie, flipped

An outcome is 1.0 (a is better), 0.5 (tie) or 0.0 (b is better); verdicts from log-probabilities
give the mean probability over both orders that a is better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rayonale.evaluate.soft_verdicts import SoftVerdict
from rayonale.evaluate.verdicts import PAIRWISE, Verdict, read_verdict
from rayonale.records import MESSAGES

ATTRIBUTES = pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())]))

# One row: one judge's opinion of one pair of responses.
ROWS = pa.schema(
    [
        ("id", pa.string()),  # <comparison>/<judge>/<prompt id>/<sample>/<repeat>
        ("comparison", pa.string()),  # <policy a>_vs_<policy b>
        ("policy_a", pa.string()),
        ("policy_b", pa.string()),
        ("prompt_id", pa.string()),
        ("sample", pa.int64()),
        ("judge", pa.string()),
        ("judge_kind", pa.string()),  # scorer | llm
        ("repeat", pa.int64()),
        ("prompt", MESSAGES),
        ("reference", pa.string()),  # the data's preferred text, where it has one
        ("response_a", pa.string()),
        ("response_b", pa.string()),
        ("tokens_a", pa.int64()),
        ("tokens_b", pa.int64()),
        ("outcome", pa.float64()),  # 1 a is better, 0.5 tie, 0 b is better; or between
        # scorers
        ("score_a", pa.float64()),
        ("score_b", pa.float64()),
        ("attributes_a", ATTRIBUTES),
        ("attributes_b", ATTRIBUTES),
        # LLM judges: what was written in both orders, raw; verdicts are 1 (the first) … 2
        ("text_ab", pa.string()),
        ("text_ba", pa.string()),
        ("verdict_ab", pa.float64()),
        ("verdict_ba", pa.float64()),
        ("flipped", pa.bool_()),  # the two orders disagree
    ]
)


@dataclass(frozen=True)
class BothOrders:
    """An LLM judge's two verdicts of one pair.

    Attributes:
        outcome: None when a verdict is unreadable: the pair is left out, nothing is guessed.
        flipped: the two orders name different responses; the outcome is then a tie.
        reason: `unreadable_<reason>` of the first unreadable verdict.
    """

    ab: Verdict
    ba: Verdict
    outcome: float | None
    flipped: bool
    reason: str | None


def judge_both_orders(
    text_ab: str,
    text_ba: str,
    *,
    prompts: tuple[str, str] = ("", ""),
    finish_reasons: tuple[str | None, str | None] = (None, None),
    choices: Mapping[str, float] = PAIRWISE,
) -> BothOrders:
    """Read a judge's texts of (a, b) and of (b, a) and put them together.

    Args:
        text_ab: written when a was shown as response 1; text_ba: when b was.
        prompts: what the judge was shown in the two orders.
        finish_reasons: `stop` or `length`, of the two texts.
        choices: labels of verdicts; values 1 (first), 2 (second) and 1.5 (tie, where offered).
    """
    ab = read_verdict(text_ab, choices, prompt=prompts[0], finish_reason=finish_reasons[0])
    ba = read_verdict(text_ba, choices, prompt=prompts[1], finish_reason=finish_reasons[1])
    if ab.value is None or ba.value is None:
        reason = ab.reason if ab.value is None else ba.reason
        return BothOrders(ab, ba, None, False, f"unreadable_{reason}")
    told_ab, told_ba = 2.0 - ab.value, ba.value - 1.0  # 1 when a is named, 0 when b is
    if told_ab != told_ba:
        return BothOrders(ab, ba, 0.5, True, None)
    return BothOrders(ab, ba, told_ab, False, None)


def soften(both: BothOrders, ab: SoftVerdict, ba: SoftVerdict) -> BothOrders:
    """Two readable verdicts with their probabilities in place of the choices written.

    The outcome is the mean over both orders of the probability that a is better: orders that
    disagree come near ½ by themselves, and are counted as flipped all the same.
    """
    if ab.preference is None or ba.preference is None:
        reason = f"unreadable_{ab.reason or ba.reason}"
        return BothOrders(_valued(both.ab, ab), _valued(both.ba, ba), None, False, reason)
    told_ab, told_ba = 2.0 - ab.preference, ba.preference - 1.0
    flipped = (told_ab - 0.5) * (told_ba - 0.5) < 0
    return BothOrders(
        _valued(both.ab, ab), _valued(both.ba, ba), (told_ab + told_ba) / 2, flipped, None
    )


def _valued(verdict: Verdict, soft: SoftVerdict) -> Verdict:
    return Verdict(soft.preference, verdict.rationale, soft.reason)


def attributes_column(attributes: Mapping[str, float]) -> list[dict[str, Any]]:
    """Attributes as they are stored."""
    return [{"name": name, "value": value} for name, value in attributes.items()]
