"""Reads a judge's verdict from its text, and refuses rather than guesses.

A judgement is a rationale that ends in the marker `[RESULT]` and the verdict::

    The first text keeps the order that was asked for, the second does not. [RESULT] 1

Rules, in order:

1. Only what follows a marker counts; a number elsewhere in the text is never a verdict.
2. A marker that the judge quotes is no verdict: one straight after an opening quote, or one
   that repeats the prompt together with the words before it.
3. The last verdict must end the text: nothing but punctuation may follow.
4. Two unquoted verdicts that differ contradict each other: unreadable.
5. A verdict is one of the given choices, in ASCII; "2", "(2)", "**2**", "2.", "Response 2"
   and, on a numeric scale, "2/5" and "2 out of 5" are the variants that judges write.

The reasons of unreadable texts are few and fixed (`REASONS`), so that they can be counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

MARKER = "[RESULT]"

REASONS = (
    "empty",  # no text at all
    "cut_off",  # the length limit came before the verdict
    "no_marker",  # the text never says [RESULT]
    "quoted_marker",  # only markers that are quotations
    "no_verdict",  # nothing after the last marker
    "not_a_choice",  # something else than a choice after the last marker
    "text_after_verdict",  # the verdict does not end the text
    "contradictory",  # two different verdicts
)

# Choices of a pairwise judgement: which response is better.
PAIRWISE: Mapping[str, float] = {"1": 1.0, "2": 2.0}
# The same for templates that offer a tie.
PAIRWISE_TIE: Mapping[str, float] = {**PAIRWISE, "tie": 1.5}


def scale(low: int = 1, high: int = 5, *, halves: bool = False) -> dict[str, float]:
    """Choices of a pointwise judgement: whole numbers from low to high, and halves if wanted."""
    whole = {str(number): float(number) for number in range(low, high + 1)}
    between = {f"{number}.5": number + 0.5 for number in range(low, high)}
    return {**whole, **between} if halves else whole


@dataclass(frozen=True)
class Verdict:
    """What was read.

    Attributes:
        value: the choice's value; None when the text is unreadable.
        rationale: the text before the verdict's marker (the whole text when unreadable).
        reason: one of `REASONS` when unreadable, else None.
    """

    value: float | None
    rationale: str
    reason: str | None = None

    @property
    def status(self) -> str:
        """`ok` or `unreadable`."""
        return "unreadable" if self.value is None else "ok"


_MARKER = re.compile(r"\[\s*RESULT\s*\]", re.ASCII | re.IGNORECASE)
_OPENING_QUOTES = "\"'`“‘«„"
_EDGES = " \t\r\n*_`\"'“”‘’()[]{}:=.,;!#-"
_NOUNS = re.compile(r"(?:response|answer|option|score|rating|assistant|text)\b[\s:#]*", re.I)
# Characters before a marker that make it a quotation when the prompt has them too.
_CONTEXT = 16


def read_verdict(
    text: str,
    choices: Mapping[str, float],
    *,
    prompt: str = "",
    finish_reason: str | None = None,
) -> Verdict:
    """Read the verdict at the end of a judgement.

    Args:
        text: what the judge wrote.
        choices: label → value; `PAIRWISE`, `PAIRWISE_TIE` or `scale(…)`.
        prompt: what the judge was shown, to know its quotations of it.
        finish_reason: `length` when the text was cut off.

    Returns:
        The verdict, or the reason why there is none; never a default value.
    """
    whole = text.strip()
    if not whole:
        return Verdict(None, "", "cut_off" if finish_reason == "length" else "empty")
    markers = list(_MARKER.finditer(whole))
    own = [found for found in markers if not _is_quoted(whole, found, prompt)]
    if not own:
        why = "quoted_marker" if markers else "no_marker"
        return Verdict(None, whole, "cut_off" if finish_reason == "length" else why)
    found, left, reason = _leading_choice(whole[own[-1].end() :], choices)
    if left.strip(_EDGES):
        found, reason = None, "text_after_verdict"
    if found is None:
        cut = finish_reason == "length" and reason == "no_verdict"
        return Verdict(None, whole, "cut_off" if cut else reason)
    for earlier, following in pairwise(own):
        told, _, _ = _leading_choice(whole[earlier.end() : following.start()], choices)
        if told is not None and choices[told] != choices[found]:
            return Verdict(None, whole, "contradictory")
    return Verdict(choices[found], whole[: own[0].start()].rstrip(" \t\r\n*_#>"), None)


def _is_quoted(text: str, marker: re.Match[str], prompt: str) -> bool:
    """Whether a marker is a quotation (rule 2)."""
    before = text[: marker.start()]
    if before and before[-1] in _OPENING_QUOTES:
        return True
    lead = before[max(before.rfind("\n") + 1, len(before) - _CONTEXT) :]
    # A marker alone on its line, with its verdict, is how a judge ends: the same line in the
    # prompt (a response that tries to dictate the verdict) does not make it a quotation.
    if not lead.strip(_EDGES):
        return False
    return lead + text[marker.start() : marker.end() + 2] in prompt


def _leading_choice(text: str, choices: Mapping[str, float]) -> tuple[str | None, str, str | None]:
    """(label, text after it, None) or (None, "", reason) for what follows a marker."""
    told = text.strip(_EDGES)
    if not told:
        return None, "", "no_verdict"
    if text.lstrip(" \t\r\n*_`\"'“‘([{:=").startswith("-"):
        return None, "", "not_a_choice"  # a negative number is no choice with a dash before it
    noun = _NOUNS.match(told)
    rest = told[noun.end() :].lstrip(_EDGES) if noun else told
    label = next((one for one in _longest_first(choices) if _starts_with(rest, one)), None)
    if label is None:
        return None, "", "not_a_choice"
    left = rest[len(label) :]
    if end := _scale_end(label, choices):
        variant = rf"^(?:\.0+)?\s*(?:(?:/|out of)\s*{end})?(?![0-9])"
        left = re.sub(variant, "", left, flags=re.IGNORECASE)
    return label, left, None


def _scale_end(label: str, choices: Mapping[str, float]) -> str | None:
    """The last number of a numeric scale; None for choices that are names ("1/2" is no score)."""
    numbers = [int(one) for one in choices if one.isdecimal()]
    return str(max(numbers)) if len(numbers) > 2 and label.isdecimal() else None


def _longest_first(choices: Mapping[str, float]) -> list[str]:
    return sorted(choices, key=len, reverse=True)


def _starts_with(text: str, label: str) -> bool:
    """Whether text starts with the label as a word of its own ("1", "1.0"; not "12", "1.5")."""
    pattern = re.escape(label) + r"(?![0-9A-Za-z]|,[0-9]|\.0*[1-9])"
    return bool(re.match(pattern, text, re.IGNORECASE | re.ASCII))
