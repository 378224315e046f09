"""Grades of rationales on four criteria, worked out from their text and the rubric.

helpfulness   how much of what decides the pair it tells: 1 nothing … 5 the widest leads
relatedness   how many of its claims are about what differs between these two responses
correctness   how many of its claims are true
coherence     whether it is one sound argument for the response that was preferred
"""

import json
import re
from typing import Final

from rayonale.tinyworld.claims import Case, Claim, Reading, claims_in, holds, make_case, names_lead
from rayonale.tinyworld.vocabulary import ATTRIBUTES

CRITERIA: Final = ("helpfulness", "relatedness", "correctness", "coherence")


def grades_of_rationale(
    prompt: str, chosen: str, rejected: str, rationale: str, chosen_first: bool = True
) -> dict[str, int]:
    """Grades 1–5 by criterion, in the order of `CRITERIA`, of any text.

    Args:
        chosen_first: whether the chosen response was shown as response A.

    Raises:
        ValueError: the prompt is not of this world.
    """
    case = make_case(prompt, chosen, rejected, chosen_first)
    reading = claims_in(rationale)
    return {
        "helpfulness": _helpfulness(case, reading),
        "relatedness": _relatedness(case, reading),
        "correctness": _correctness(case, reading),
        "coherence": _coherence(case, reading, rationale),
    }


def grade_text(
    prompt: str, chosen: str, rejected: str, rationale: str, chosen_first: bool = True
) -> str:
    """The JSON object a judge answers with: {"explanation": "…", "helpfulness": 5, …}."""
    explanation = explanation_of_grades(prompt, chosen, rejected, rationale, chosen_first)
    grades = grades_of_rationale(prompt, chosen, rejected, rationale, chosen_first)
    return json.dumps({"explanation": explanation, **grades})


def explanation_of_grades(
    prompt: str, chosen: str, rejected: str, rationale: str, chosen_first: bool = True
) -> str:
    """What the grades follow from: both responses' attributes, then the truth of each claim.

    "kind 5 5, number 3 5, order 5 2, tone 1 5, ending 5 5, wording 5 5: A order true, A tone
    false, A better true". Written down first, the grades can be read off.
    """
    case = make_case(prompt, chosen, rejected, chosen_first)
    reading = claims_in(rationale)
    first, second = case.scores["A"].attributes, case.scores["B"].attributes
    checks = ", ".join(f"{name} {first[name]} {second[name]}" for name in ATTRIBUTES)
    said = [(claim.place, claim.attribute, holds(claim, case)) for claim in reading.claims]
    said += [(place, "better", place == case.chosen) for place in reading.better]
    told = ", ".join(f"{place} {what} {str(true).lower()}" for place, what, true in said)
    return f"{checks}: {told or 'no claims'}"


def _helpfulness(case: Case, reading: Reading) -> int:
    leads = sorted((case.lead(name) for name in ATTRIBUTES if case.lead(name) > 0), reverse=True)
    named = {claim.attribute for claim in reading.claims if names_lead(claim, case)}
    if not named:
        return 1
    told = sum(case.lead(name) for name in named)
    grade = 2 + round(3 * min(1.0, told / sum(leads[:2])))
    return grade - (not all(holds(claim, case) for claim in reading.claims))


def _relatedness(case: Case, reading: Reading) -> int:
    if not reading.claims:
        return 2 if reading.better else 1
    related = sum(_is_related(claim, case) for claim in reading.claims)
    return 1 + round(4 * related / len(reading.claims))


def _is_related(claim: Claim, case: Case) -> bool:
    """About something that differs, and true of one of the two responses at least."""
    differs = case.lead(claim.attribute) != 0
    return differs and any(
        holds(Claim(place, claim.attribute, claim.sign, claim.form, claim.details), case)
        for place in case.scores
    )


def _correctness(case: Case, reading: Reading) -> int:
    truths = [holds(claim, case) for claim in reading.claims]
    truths += [place == case.chosen for place in reading.better]
    if not reading.claims:
        return 3 if all(truths) else 1
    return 1 + round(4 * sum(truths) / len(truths))


def _coherence(case: Case, reading: Reading, rationale: str) -> int:
    grade = 5
    favours = {_favoured(claim) for claim in reading.claims} | set(reading.better)
    if case.chosen not in favours:
        grade -= 2
    if _contradicts(reading):
        grade -= 2
    if len(set(reading.claims)) < len(reading.claims):
        grade -= 1
    if not re.search(r"[.!?]\s*\Z", rationale):
        grade -= 1
    return max(1, grade)


def _favoured(claim: Claim) -> str:
    return claim.place if claim.sign == 1 else {"A": "B", "B": "A"}[claim.place]


def _contradicts(reading: Reading) -> bool:
    """One response both praised and blamed for an attribute, or two better ones."""
    praised = {(claim.attribute, _favoured(claim)) for claim in reading.claims}
    return len(set(reading.better)) > 1 or any(
        (name, "A") in praised and (name, "B") in praised for name in ATTRIBUTES
    )
