"""The teacher's rationales: why the chosen response of a pair is preferred.

    general   "Response A is better: it wins on order and tone. Response B wins only on ending."
    detailed  "Response A keeps the order and sounds sad as asked, but response B puts
               swan before crow and sounds calm."

Responses are named "response A" and "response B" and in no other way.
"""

import random
import re
from typing import Final

from rayonale.tinyworld.claims import Case, Place, make_case
from rayonale.tinyworld.rubric import in_order
from rayonale.tinyworld.vocabulary import ATTRIBUTES, KIND_OF_ITEM

_GENERAL: Final = (
    "Response {c} is better: it wins on {leads}.",
    "Response {c} is the better one. Response {r} falls short on {leads}.",
    "I find that response {c} is better, since it does better on {leads}.",
)
# That names the rejected response first: see `varied` below.
_GENERAL_VARIED: Final = (*_GENERAL, "Response {r} loses on {leads}, so response {c} is better.")
_NAIVE: Final = (
    "I like response {c} because it is so nice and fun!",
    "Response {c} is my favorite, it makes me smile!",
    "Wow, response {c} is super cool and response {r} is boring!",
    "My friend likes response {c} best, and I do too!",
)


def general_rationale(
    prompt: str,
    chosen: str,
    rejected: str,
    rng: random.Random,
    chosen_first: bool = True,
    *,
    varied: bool = False,
) -> str:
    """Which attributes speak for the chosen response, without details.

    Where nothing speaks for it (a flipped label, equal responses) it says so.
    ValueError for a prompt that is not of this world.

    Args:
        chosen_first: whether the chosen response was shown as response A.
        varied: the rejected response may be named first. A small model learns what to say from
            such texts, but of whom only from those that begin with the chosen one.
    """
    case = make_case(prompt, chosen, rejected, chosen_first)
    leads = _leads(case)
    concession = _concession(case, rng)
    if not leads:
        return _without_leads(case, concession)
    text = rng.choice(_GENERAL_VARIED if varied else _GENERAL).format(
        c=case.chosen, r=case.rejected, leads=_join(leads)
    )
    return f"{text} {concession}" if concession and rng.random() < 0.5 else text


def detailed_rationale(
    prompt: str,
    chosen: str,
    rejected: str,
    rng: random.Random,
    chosen_first: bool = True,
    *,
    varied: bool = False,
) -> str:
    """What the two responses do, attribute by attribute, on what the chosen one does better.

    Arguments and errors are those of `general_rationale`.
    """
    case = make_case(prompt, chosen, rejected, chosen_first)
    leads = _leads(case)
    concession = _concession(case, rng)
    if not leads:
        return _without_leads(case, concession)
    praise = [praise_of(case, name) for name in leads]
    praise = list(filter(None, praise)) or [f"wins on {_join(leads)}"]
    blame = [blame_of(case, case.rejected, name) for name in leads]
    good = f"esponse {case.chosen} {' and '.join(praise)}"
    bad = f"esponse {case.rejected} {' and '.join(blame)}"
    forms = (f"R{good}, but r{bad}.", f"R{bad}, while r{good}.")
    text = rng.choice(forms) if varied else forms[0]
    return f"{text} {concession}" if concession and rng.random() < 0.3 else text


def naive_rationale(rng: random.Random, chosen_first: bool = True) -> str:
    """As a child would write it: liking without a reason."""
    chosen = "A" if chosen_first else "B"
    return rng.choice(_NAIVE).format(c=chosen, r="B" if chosen_first else "A")


def reverse_rationale(rationale: str) -> str:
    """The rationale with its meaning reversed: everything said of A is said of B."""
    return re.sub(
        r"([Rr]esponse )([AB])\b", lambda m: m[1] + ("B" if m[2] == "A" else "A"), rationale
    )


def praise_of(case: Case, attribute: str) -> str:
    """What the chosen response does right, or "" where it is only nearer to it."""
    place, request = case.chosen, case.request
    if case.scores[place].attributes[attribute] < 5:
        return ""
    verb = "uses" if request.required else "avoids"
    return {
        "kind": f"names only {request.kind}",
        "number": f"names {request.number} as asked",
        "order": "keeps the order",
        "tone": f"sounds {request.tone} as asked",
        "ending": f"ends with {request.ending} as asked",
        "wording": f"{verb} {request.word} as asked",
    }[attribute]


def blame_of(case: Case, place: Place, attribute: str) -> str:
    """What a response does wrong on an attribute on which it has less than 5."""
    request, facts = case.request, case.facts[place]
    foreign = [item for item in facts.items if KIND_OF_ITEM[item] != request.kind]
    neighbours = zip(facts.items, facts.items[1:], strict=False)
    wrong = [pair for pair in neighbours if not in_order(request, *pair)]
    tones = [tone for tone in facts.tones if tone != request.tone]
    rule = f"lacks {request.word}" if request.required else f"still says {request.word}"
    rule_kept = (request.word in facts.places) == request.required
    return {
        "kind": f"names {foreign[0]}, which does not fit" if foreign else "loses on kind",
        "number": f"names {len(facts.items)}, not {request.number}",
        "order": f"puts {wrong[0][0]} before {wrong[0][1]}" if wrong else "has nothing to order",
        "tone": f"sounds {tones[0]}" if tones else f"has no {request.tone} tone",
        "ending": f"does not end with {request.ending}",
        "wording": "has odd wording" if rule_kept else rule,
    }[attribute]


def _leads(case: Case) -> list[str]:
    """The attributes on which the chosen one leads, in the rubric's order.

    Not the widest lead first: to put them in order of width, a model would have to see all of
    them before its first word.
    """
    return [name for name in ATTRIBUTES if case.lead(name) > 0]


def _concession(case: Case, rng: random.Random) -> str:
    behind = [name for name in ATTRIBUTES if case.lead(name) < 0]
    if not behind:
        return ""
    named = behind[:2]
    verb = rng.choice(("wins only on", "is stronger on"))
    return f"Response {case.rejected} {verb} {_join(named)}."


def _without_leads(case: Case, concession: str) -> str:
    if concession:
        return f"Response {case.chosen} is preferred all the same. {concession}"
    return f"Response {case.chosen} is preferred, but both do equally well."


def _join(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
