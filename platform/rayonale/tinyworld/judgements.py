"""The teacher's judgements: a check of every attribute in a fixed order, then the verdict.

    pointwise  "Kind 5, 4 named not 3: number 3, order 5, sounds sad: tone 1, ending 5,
                lacks river: wording 1. [RESULT] 3"
    pairwise   "Kind 5 5, number 3 5, order 5 2, tone 1 5, ending 5 5, wording 1 5. [RESULT] 2"

The checks come first so that the verdict can be worked out from the written text.
"""

import random
import re
from typing import Final

from rayonale.tinyworld.claims import Case, make_case
from rayonale.tinyworld.rationales import blame_of
from rayonale.tinyworld.rubric import score, verdict
from rayonale.tinyworld.vocabulary import ATTRIBUTES

RUBRIC: Final = (
    "1: nearly all wrong. 2: much wrong. 3: half right. 4: small faults. "
    "5: all or nearly all right."
)

_LEAD_INS: Final = ("", "", "Checks: ", "In turn: ")
_NAIVE: Final = (
    "I like it, it is so nice!",
    "It makes me smile, so it is good!",
    "Wow, this is super cool!",
    "It is fun and my friend likes it too!",
)
_CHECK = re.compile(rf"\b({'|'.join(ATTRIBUTES)}) ([1-5])\b")
_RESULT = re.compile(r"\[RESULT\] ([1-5])\s*\Z")


def pointwise_rationale(prompt: str, response: str, rng: random.Random) -> str:
    """The checks of one response, without the verdict; ValueError for a foreign prompt."""
    case = make_case(prompt, response, response)
    return _checks_text(case, case.scores["A"].attributes, rng)


def pointwise_judgement(prompt: str, response: str, rng: random.Random) -> str:
    """Checks, `[RESULT]` and the verdict 1–5; ValueError for a foreign prompt."""
    text = pointwise_rationale(prompt, response, rng)
    return f"{text} [RESULT] {verdict(score(prompt, response).overall)}"


def pairwise_judgement(prompt: str, response_1: str, response_2: str, rng: random.Random) -> str:
    """Checks of both responses, `[RESULT]` and 1 or 2; equal responses give either."""
    first, second = score(prompt, response_1).attributes, score(prompt, response_2).attributes
    checks = ", ".join(f"{name} {first[name]} {second[name]}" for name in ATTRIBUTES)
    lead = sum(first.values()) - sum(second.values())
    better = 1 if lead > 0 else 2 if lead < 0 else rng.choice((1, 2))
    return f"{_sentence(checks, rng)} [RESULT] {better}"


def naive_judgement(result: int, rng: random.Random) -> str:
    """A judgement as a child would write it, with the given verdict."""
    return f"{rng.choice(_NAIVE)} [RESULT] {result}"


def flawed_judgement(
    prompt: str, response: str, rng: random.Random, wrong: int, shift: int = 0
) -> str:
    """A judgement with `wrong` untrue checks and a verdict that is off by `shift`."""
    case = make_case(prompt, response, response)
    checks = dict(case.scores["A"].attributes)
    for name in rng.sample(ATTRIBUTES, wrong):
        checks[name] = rng.choice([value for value in range(1, 6) if value != checks[name]])
    result = min(5, max(1, verdict(case.scores["A"].overall) + shift))
    return f"{_checks_text(case, checks, rng)} [RESULT] {result}"


def grade_of_judgement(prompt: str, response: str, judgement: str) -> int:
    """1–5: five, less the distance of its verdict, less one for each two untrue checks.

    A check that is missing is untrue. Without a verdict at the end the grade is 1.
    """
    given = _RESULT.search(judgement)
    if given is None:
        return 1
    truth = score(prompt, response)
    off = abs(int(given[1]) - verdict(truth.overall))
    return max(1, 5 - off - untrue_checks(prompt, response, judgement) // 2)


def judgement_of_judgement(prompt: str, response: str, judgement: str, rng: random.Random) -> str:
    """The true checks, true and given verdict, `[RESULT]` and the grade of a judgement."""
    truth = score(prompt, response)
    checks = ", ".join(f"{name} {value}" for name, value in truth.attributes.items())
    given = _RESULT.search(judgement)
    untrue = untrue_checks(prompt, response, judgement)
    grade = grade_of_judgement(prompt, response, judgement)
    return (
        f"{_sentence(checks, rng)} True {verdict(truth.overall)}, "
        f"given {given[1] if given else 'none'}, {untrue} wrong. [RESULT] {grade}"
    )


def untrue_checks(prompt: str, response: str, judgement: str) -> int:
    """How many of the six checks of a judgement are untrue or missing."""
    said = {name: int(value) for name, value in _CHECK.findall(judgement.lower())}
    truth = score(prompt, response).attributes
    return sum(said.get(name) != value for name, value in truth.items())


def best_and_worst(prompt: str, response: str, rationales: list[str]) -> list[int]:
    """Numbers (from 1) of the best and the worst rationale of a response.

    The fewest untrue checks are best; the earlier one where they are equal.
    """
    if len(rationales) < 2:
        raise ValueError(f"found {len(rationales)} rationales to pick from, expected 2 or more")
    faults = [untrue_checks(prompt, response, text) for text in rationales]
    best = min(range(len(faults)), key=lambda index: (faults[index], index))
    worst = max((i for i in range(len(faults)) if i != best), key=lambda i: (faults[i], -i))
    return [best + 1, worst + 1]


def _checks_text(case: Case, checks: dict[str, int], rng: random.Random) -> str:
    truth = case.scores["A"].attributes
    parts = []
    for name, value in checks.items():
        note = f"{blame_of(case, 'A', name)}: " if truth[name] < 5 and value < 5 else ""
        parts.append(f"{note}{name} {value}")
    return _sentence(", ".join(parts), rng)


def _sentence(checks: str, rng: random.Random) -> str:
    lead_in = rng.choice(_LEAD_INS)
    return f"{lead_in}{checks}." if lead_in else f"{checks[0].upper()}{checks[1:]}."
