"""What a rationale claims about two responses, read from its text and checked.

    "Response A keeps the order and sounds sad as asked, but response B names hammer."
      → Claim("A", "order", "keeps the order"), Claim("A", "tone", …), Claim("B", "kind", …)

A claim belongs to the response named last before it. `claims_in` reads any text: what
it does not understand it leaves out.
"""

import re
from dataclasses import dataclass
from typing import Literal

from rayonale.tinyworld.requests import Request, parse
from rayonale.tinyworld.rubric import Facts, Score, in_order, read_facts, score_facts
from rayonale.tinyworld.vocabulary import ATTRIBUTES, KIND_OF_ITEM

Place = Literal["A", "B"]

_ATTRIBUTE = "|".join(ATTRIBUTES)
_LIST = rf"(?:{_ATTRIBUTE})(?:(?:,? and |, )(?:{_ATTRIBUTE}))*"

# name → (attribute or None, sign of praise, pattern). `more` and `less` compare the two
# responses; the other forms say something of one response alone.
_FORMS: dict[str, tuple[str | None, int, str]] = {
    "more": (None, 1, rf"(?:wins only on|wins on|is stronger on|does better on) (?P<more>{_LIST})"),
    "less": (None, -1, rf"(?:loses on|is weaker on|falls short on) (?P<less>{_LIST})"),
    "kind_bad": ("kind", -1, r"names (?P<kind_bad>[a-z]+), which does not fit"),
    "kind_good": ("kind", 1, r"names only (?P<kind_good>[a-z]+)"),
    "number_good": ("number", 1, r"names (?P<number_good>\d+) as asked"),
    "number_bad": ("number", -1, r"names (?P<number_bad>\d+), not (?P<number_asked>\d+)"),
    "order_good": ("order", 1, r"(?P<order_good>keeps the order)"),
    "order_bad": ("order", -1, r"puts (?P<order_bad>[a-z]+) before (?P<order_second>[a-z]+)"),
    "order_none": ("order", -1, r"(?P<order_none>has nothing to order)"),
    "tone_good": ("tone", 1, r"sounds (?P<tone_good>[a-z]+) as asked"),
    "tone_bad": ("tone", -1, r"sounds (?P<tone_bad>[a-z]+)(?! as asked)\b"),
    "tone_none": ("tone", -1, r"has no (?P<tone_none>[a-z]+) tone"),
    "ending_good": ("ending", 1, r"ends with (?P<ending_good>a [a-z]+|thanks) as asked"),
    "ending_bad": ("ending", -1, r"does not end with (?P<ending_bad>a [a-z]+|thanks)"),
    "wording_good": ("wording", 1, r"(?P<wording_good>uses|avoids) (?P<good_word>[a-z]+) as asked"),
    "wording_lacks": ("wording", -1, r"lacks (?P<wording_lacks>[a-z]+)"),
    "wording_says": ("wording", -1, r"still says (?P<wording_says>[a-z]+)"),
    "wording_odd": ("wording", -1, r"(?P<wording_odd>has odd wording)"),
}
_ANY = re.compile(
    "|".join(
        [
            r"[Rr]esponse (?P<place>[AB])\b",
            r"(?P<verdict>is better(?! o)|is the better one|is preferred)",
            *(pattern for _, _, pattern in _FORMS.values()),
        ]
    )
)


@dataclass(frozen=True)
class Claim:
    """place: the response it is about; sign: 1 praise, −1 blame; form: a key of `_FORMS`;
    details: the words filled into the form."""

    place: Place
    attribute: str
    sign: int
    form: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """claims, and `better`: the places that the text calls the better one, in order."""

    claims: tuple[Claim, ...]
    better: tuple[Place, ...]


@dataclass(frozen=True)
class Case:
    """Two responses to a request in their places, with the truth about both."""

    request: Request
    facts: dict[Place, Facts]
    scores: dict[Place, Score]
    chosen: Place

    @property
    def rejected(self) -> Place:
        return other_place(self.chosen)

    def lead(self, attribute: str) -> int:
        """Points by which the chosen response is ahead on an attribute; may be negative."""
        ahead = self.scores[self.chosen].attributes[attribute]
        return ahead - self.scores[self.rejected].attributes[attribute]


def other_place(place: Place) -> Place:
    """A for B and B for A."""
    return "B" if place == "A" else "A"


def make_case(prompt: str, chosen: str, rejected: str, chosen_first: bool = True) -> Case:
    """The truth about a pair; ValueError for a prompt that is not of this world."""
    request = parse(prompt)
    place: Place = "A" if chosen_first else "B"
    facts = {place: read_facts(chosen), other_place(place): read_facts(rejected)}
    scores = {where: score_facts(request, found) for where, found in facts.items()}
    return Case(request, facts, scores, place)


def claims_in(rationale: str) -> Reading:
    """Read every claim of a text; a text without any gives an empty reading."""
    claims: list[Claim] = []
    better: list[Place] = []
    place: Place | None = None
    for match in _ANY.finditer(rationale):
        if match["place"]:
            place = "A" if match["place"] == "A" else "B"
        elif place is None:
            continue
        elif match["verdict"]:
            better.append(place)
        else:
            claims.extend(_claims_of(match, place))
    return Reading(tuple(claims), tuple(better))


def _claims_of(match: re.Match[str], place: Place) -> list[Claim]:
    form = next(name for name in _FORMS if match[name] is not None)
    attribute, sign, pattern = _FORMS[form]
    if attribute is None:
        named = re.findall(_ATTRIBUTE, match[form])
        return [Claim(place, name, sign, form) for name in named]
    groups = re.findall(r"\?P<(\w+)>", pattern)
    return [Claim(place, attribute, sign, form, tuple(match[group] for group in groups))]


def holds(claim: Claim, case: Case) -> bool:
    """Whether a claim is true of the case."""
    mine = case.scores[claim.place].attributes[claim.attribute]
    theirs = case.scores[other_place(claim.place)].attributes[claim.attribute]
    if claim.form in ("more", "less"):
        return (mine - theirs) * claim.sign > 0
    if (mine == 5) != (claim.sign == 1):
        return False
    return _details_hold(claim, case.request, case.facts[claim.place])


def _details_hold(claim: Claim, request: Request, facts: Facts) -> bool:
    details = claim.details
    first = details[0]
    broken_rule = (request.word in facts.places) != request.required
    checks = {
        "kind_bad": lambda: first in facts.items and KIND_OF_ITEM[first] != request.kind,
        "kind_good": lambda: first == request.kind,
        "number_good": lambda: int(first) == len(facts.items),
        "number_bad": lambda: (int(first), int(details[1])) == (len(facts.items), request.number),
        "order_bad": lambda: (
            (first, details[-1])
            in [
                pair
                for pair in zip(facts.items, facts.items[1:], strict=False)
                if not in_order(request, *pair)
            ]
        ),
        "order_none": lambda: len(facts.items) < 2,
        "tone_good": lambda: first == request.tone,
        "tone_bad": lambda: first in facts.tones and first != request.tone,
        "tone_none": lambda: first == request.tone and first not in facts.tones,
        "ending_good": lambda: first == request.ending,
        "ending_bad": lambda: first == request.ending,
        "wording_good": lambda: details == ("uses" if request.required else "avoids", request.word),
        "wording_lacks": lambda: first == request.word and request.required and broken_rule,
        "wording_says": lambda: first == request.word and not request.required and broken_rule,
        "wording_odd": lambda: not broken_rule,
    }
    return checks.get(claim.form, lambda: True)()


def names_lead(claim: Claim, case: Case) -> bool:
    """Whether a claim is true and tells something that speaks for the chosen response."""
    favours = case.chosen if claim.sign == 1 else case.rejected
    return claim.place == favours and case.lead(claim.attribute) > 0 and holds(claim, case)


def names_true_difference(
    prompt: str, chosen: str, rejected: str, rationale: str, chosen_first: bool = True
) -> bool:
    """Whether a rationale names at least one true advantage of the chosen response.

    Args:
        chosen_first: whether the chosen response was shown as response A.

    Raises:
        ValueError: the prompt is not of this world.
    """
    case = make_case(prompt, chosen, rejected, chosen_first)
    return any(names_lead(claim, case) for claim in claims_in(rationale).claims)
