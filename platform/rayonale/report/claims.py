"""The headline: what the numbers say in words, "no" and "cannot tell" included.

A claim is decided by the interval alone. Better: the whole interval is above one half. Worse:
all of it is below. Otherwise the data cannot tell. "Reaches" is weaker than "beats": the interval
must not go below one half by more than `MARGIN`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rayonale.report.text import interval, judge_label, percent

Answer = Literal["yes", "no", "cannot tell"]

# How far below one half a win rate may be, to still count as "as good" (5 points).
MARGIN = 0.05
# From this flip rate on a judge is called unreliable.
DOUBTFUL = 0.5


@dataclass(frozen=True)
class Claim:
    """One question, its answer, and the numbers in a sentence."""

    question: str
    answer: Answer
    sentence: str
    a: str
    b: str
    judge: str
    exact: bool
    kind: Literal["beats", "reaches"]
    pairs: tuple[int, int] | None = None  # of a and b, where the amount of data is the question
    caveat: str = ""


@dataclass(frozen=True)
class Trained:
    """What is known of a policy: its loss and the number of rows it was trained on."""

    name: str
    loss: str
    pairs: int


def beats(entry: Mapping[str, Any]) -> Answer:
    """Whether a beats b: by the interval of its win rate."""
    if entry["low"] > 0.5:
        return "yes"
    return "no" if entry["high"] < 0.5 else "cannot tell"


def reaches(entry: Mapping[str, Any]) -> Answer:
    """Whether a is as good as b, within `MARGIN`."""
    if entry["low"] >= 0.5 - MARGIN:
        return "yes"
    return "no" if entry["high"] < 0.5 else "cannot tell"


def swapped(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The same comparison seen from b."""
    return {
        **entry,
        "a": entry["b"],
        "b": entry["a"],
        "value": 1 - entry["value"],
        "low": 1 - entry["high"],
        "high": 1 - entry["low"],
        "wins": entry.get("losses"),
        "losses": entry.get("wins"),
    }


def claims(
    win_rates: Sequence[Mapping[str, Any]],
    trained: Mapping[str, Trained],
    exact: frozenset[str] = frozenset(),
) -> list[Claim]:
    """Claims that the comparisons decide; exact judges first.

    Args:
        win_rates: entries of the `win_rates` stage's table.
        trained: policy → how it was trained.
        exact: judges whose verdict is the truth.
    """
    found = []
    for entry in sorted(win_rates, key=lambda e: e["judge"] not in exact):
        seen = oriented(entry, trained)
        of_a, of_b = trained.get(seen["a"]), trained.get(seen["b"])
        exactly = seen["judge"] in exact
        if of_a and of_b and _has_fewer(of_a, of_b):
            found.append(_reaches_claim(seen, of_a, of_b, exactly))
        else:
            found.append(_beats_claim(seen, exactly))
    return [_with_caveat(claim, found, trained) for claim in found]


def _with_caveat(claim: Claim, found: Sequence[Claim], trained: Mapping[str, Trained]) -> Claim:
    """To reach a policy that is no better than SFT says little; then the claim says so."""
    if claim.kind != "reaches" or claim.answer != "yes":
        return claim
    against = [
        other
        for other in found
        if other.judge == claim.judge and other.a == claim.b and other.kind == "beats"
        and other.b in trained and trained[other.b].loss == "sft"
    ]  # fmt: skip
    if not against or any(other.answer == "yes" for other in against):
        return claim
    told = f"which itself is not shown to beat {against[0].b}"
    return replace(claim, caveat=told, sentence=f"{claim.sentence} It says little: {claim.b} "
                   f"itself is not shown to beat {against[0].b}.")  # fmt: skip


def oriented(entry: Mapping[str, Any], trained: Mapping[str, Trained]) -> Mapping[str, Any]:
    """The comparison from the side of which one asks: against SFT, or against more data."""
    of_a, of_b = trained.get(entry["a"]), trained.get(entry["b"])
    if of_a is None or of_b is None:
        return entry
    turned = (of_a.loss == "sft" and of_b.loss != "sft") or _has_fewer(of_b, of_a)
    return swapped(entry) if turned else entry


def _has_fewer(one: Trained, other: Trained) -> bool:
    """Whether one was trained on clearly fewer pairs than the other; SFT is not compared so."""
    return "sft" not in (one.loss, other.loss) and 0 < 1.5 * one.pairs < other.pairs


def _beats_claim(entry: Mapping[str, Any], exact: bool) -> Claim:
    a, b = entry["a"], entry["b"]
    answer = beats(entry)
    if answer == "yes":
        told = f"{a} wins"
    elif answer == "no":
        told = f"{a} loses to {b}: it wins"
    else:
        told = f"The interval holds 50 %: {a} wins"
    return Claim(
        f"Does {a} beat {b}?", answer, _sentence(told, entry), a, b, entry["judge"], exact, "beats"
    )


def _reaches_claim(entry: Mapping[str, Any], of_a: Trained, of_b: Trained, exact: bool) -> Claim:
    a, b = entry["a"], entry["b"]
    answer = reaches(entry)
    question = f"Does {a}, with {of_a.pairs:,} pairs, reach {b}, with {of_b.pairs:,}?"
    if beats(entry) == "yes":
        told = f"{a} even beats {b}: it wins"
    elif answer == "yes":
        told = f"As good within {MARGIN * 100:.0f} points: {a} wins"
    elif answer == "no":
        told = f"{a} falls short: it wins"
    else:
        told = f"The interval allows both: {a} wins"
    pairs = (of_a.pairs, of_b.pairs)
    sentence = _sentence(told, entry)
    return Claim(question, answer, sentence, a, b, entry["judge"], exact, "reaches", pairs)


def _sentence(told: str, entry: Mapping[str, Any]) -> str:
    level = f"{100 * entry['level']:.0f} %"
    return (
        f"{told} {percent(entry['value'])} of {entry['prompts']:,} prompts "
        f"({level} interval {interval(entry['low'], entry['high'], share=True)}, ties count half)."
    )


def headline(found: Sequence[Claim], flip_rates: Mapping[str, float] | None = None) -> list[str]:
    """The claims of the surest judge in sentences, then how far the other judges agree.

    The surest judge is the exact one, else the first.

    Args:
        flip_rates: LLM judge → share of its pairs whose two orders disagree.
    """
    if not found:
        return []
    sure = next((claim.judge for claim in found if claim.exact), found[0].judge)
    mine = [claim for claim in found if claim.judge == sure]
    told = []
    for kind, answer, verbs in _VERBS:
        by_rival: dict[str, list[str]] = {}
        for claim in mine:
            if (claim.kind, claim.answer) == (kind, answer):
                one, other = _named(claim)
                rival = f"{other}, {claim.caveat}" if claim.caveat else other
                by_rival.setdefault(rival, []).append(one)
        for rival, names in by_rival.items():
            if answer == "cannot tell":
                told.append(f"Whether {listed(names, 'or')} {verbs[0]} {rival}, {_OPEN}.")
            else:
                told.append(f"{listed(names)} {verbs[len(names) > 1]} {rival}.")
    answers = {claim.question: claim.answer for claim in mine}
    for judge in dict.fromkeys(claim.judge for claim in found if claim.judge != sure):
        theirs = [c for c in found if c.judge == judge and c.question in answers]
        same = sum(claim.answer == answers[claim.question] for claim in theirs)
        same_of = f"{same} of {len(theirs)} questions"
        told.append(f"The {judge_label(judge)} gives the same answer to {same_of}.")
    for judge, flips in (flip_rates or {}).items():
        if flips >= DOUBTFUL:
            told.append(
                f"The {judge_label(judge)} cannot be relied on: its two orders disagree in "
                f"{percent(flips, 0)} of the pairs."
            )
    return told


_OPEN = "these data cannot tell"
_VERBS: tuple[tuple[str, str, tuple[str, str]], ...] = (
    ("beats", "yes", ("beats", "beat")),
    ("beats", "no", ("loses to", "lose to")),
    ("reaches", "yes", ("reaches", "reach")),
    ("reaches", "no", ("does not reach", "do not reach")),
    ("beats", "cannot tell", ("beats", "beat")),
    ("reaches", "cannot tell", ("reaches", "reach")),
)


def flip_rates(win_rates: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """LLM judge → share of its pairs whose two orders disagree, over all comparisons."""
    found = {}
    for judge in dict.fromkeys(entry["judge"] for entry in win_rates):
        mine = [e for e in win_rates if e["judge"] == judge and e.get("flip_rate") is not None]
        pairs = sum(entry["pairs"] for entry in mine)
        if pairs:
            found[judge] = sum(entry["flip_rate"] * entry["pairs"] for entry in mine) / pairs
    return found


def _named(claim: Claim) -> tuple[str, str]:
    """a and b, with their numbers of pairs where these are the question."""
    if claim.pairs is None:
        return claim.a, claim.b
    return f"{claim.a} ({claim.pairs[0]:,} pairs)", f"{claim.b} ({claim.pairs[1]:,} pairs)"


def listed(names: Sequence[str], word: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"
