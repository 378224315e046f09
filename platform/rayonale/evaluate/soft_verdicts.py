"""A judge's verdict as a probability, from the log-probabilities of its verdict's token.

    … is terse. [RESULT] 2          top log-probs in the place of "2":  2 −0.22, 1 −1.61, tie −9.1
                         ▲          P(2) = e^−0.22 / (e^−0.22 + e^−1.61) = 0.80  → preference 1.80

The labels alone share the probability: what else the judge might have written is left out. A
preference is a number from 1 (the first is better) to 2 (the second is), as in AlpacaEval's
annotations; arXiv 2404.04475 calls it weighted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayonale.evaluate.verdicts import MARKER
from rayonale.generate.settings import Step

REASONS = (
    "no_logprobs",  # the judge's log-probabilities are not there
    "no_label",  # none of the labels is among the most likely tokens
    "no_verdict_token",  # no single token of the text is the verdict
)

# Around a label inside a token: " 1", "1.", "▁1".
_EDGES = " \t\r\n*_`\"'“”‘’()[]{}:=.,;!#▁Ġ"
_MARKER = re.compile(re.escape(MARKER), re.IGNORECASE)


@dataclass(frozen=True)
class SoftVerdict:
    """A soft preference, or the reason why there is none.

    Attributes:
        preference: 1 (the first is surely better) … 2; None when unreadable.
        bounded: the other label was not among the most likely tokens, and the least likely of
            these stands for it: the truth is at least as far from 1.5.
        reason: one of `REASONS` when unreadable.
    """

    preference: float | None
    bounded: bool = False
    reason: str | None = None


def soft_preference(
    top: Mapping[str, float] | None,
    labels: tuple[str, str] = ("1", "2"),
    *,
    switched: bool = False,
    variants: bool = True,
) -> SoftVerdict:
    """Preference from the log-probabilities of the most likely tokens.

    Args:
        top: token's text → log-probability in nats. Labels that differ in case alone ("m", "M")
            are told apart.
        labels: what names the response shown first, and the one shown second.
        switched: the response shown first is the pair's second: the preference is turned.
        variants: " 1" and "1" are one label, and add up; alpaca_eval takes the label's own token
            alone (False), which differs by 1e-8 where " M" has a share.

    Raises:
        ValueError: a log-probability above 0 or not a number.
    """
    if not top:
        return SoftVerdict(None, reason="no_logprobs")
    wrong = {token: value for token, value in top.items() if not value <= 1e-6}
    if wrong:
        raise ValueError(f"log-probabilities {wrong}; expected numbers of at most 0")
    found = [_total(top, label) if variants else top.get(label) for label in labels]
    if all(value is None for value in found):
        return SoftVerdict(None, reason="no_label")
    least = min(top.values())
    first, second = (least if value is None else value for value in found)
    if first == second == -math.inf:
        return SoftVerdict(None, reason="no_label")
    # 1 / (1 + e^(first − second)), without overflow at either end
    apart = second - first
    share = 1 / (1 + math.exp(-apart)) if apart >= 0 else math.exp(apart) / (1 + math.exp(apart))
    return SoftVerdict(2 - share if switched else 1 + share, bounded=None in found)


def expected_verdict(steps: Sequence[Step], choices: Mapping[str, float]) -> float | None:
    """Mean of the choices' values under the probabilities of the verdict's token.

    The choices alone share the probability, as in `soft_preference`; one that is not among the most
    likely tokens has none. G-Eval (arXiv 2303.16634) weighs scores so.

    Args:
        steps: the judgement's tokens with their alternatives.
        choices: label → value.

    Returns:
        None where no single token of the text is the verdict, or none has a probability.
    """
    step = verdict_step(steps, tuple(choices))
    if step is None:
        return None
    found = {label: _total(step.top, label) for label in choices}
    known = {label: value for label, value in found.items() if value is not None}
    peak = max(known.values(), default=-math.inf)
    if peak == -math.inf:
        return None
    weights = {label: math.exp(value - peak) for label, value in known.items()}
    return math.fsum(choices[label] * w for label, w in weights.items()) / math.fsum(
        weights.values()
    )


def verdict_step(steps: Sequence[Step], labels: Sequence[str] = ("1", "2")) -> Step | None:
    """The generated token that is the verdict: the first after the last marker that says something.

    None where that token is no label by itself: its log-probabilities would be about another word.
    """
    texts = [step.text for step in steps]
    written = "".join(texts)
    markers = list(_MARKER.finditer(written))
    if not markers:
        return None
    at = 0
    for step in steps:
        begun, at = at, at + len(step.text)
        said = step.text.strip(_EDGES)
        if begun >= markers[-1].end() and said:
            return step if said in labels else None
    return None


def _total(top: Mapping[str, float], label: str) -> float | None:
    """log Σ p over the variants of a label; None where there is none."""
    values = [value for token, value in top.items() if token.strip(_EDGES) == label]
    if not values:
        return None
    peak = max(values)
    if peak == -math.inf:
        return peak
    return peak + math.log(math.fsum(math.exp(value - peak) for value in values))
