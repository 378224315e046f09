"""Responses of all qualities, as a person who half listens would write them.

Each constraint is kept or broken on its own, with a chance that grows with the
response's quality. Some constraints are kept less often by habit (`_HABIT`), and they are
mostly broken in one and the same way (things the wrong way round, no ending, "Today"): a
model that learns from these texts breaks them when it decodes greedily, which is the room
that training on preferences has. Were the faults as varied as the right answers are alike,
the likeliest text would be a right one.
"""

import random
from collections.abc import Callable
from typing import Final

from rayonale.tinyworld.requests import Request
from rayonale.tinyworld.vocabulary import (
    CLOSINGS,
    ENDINGS,
    FILLERS,
    KIND_OF_ITEM,
    KINDS,
    LEADS,
    MISPLACED,
    OPENERS,
    PLACES,
    TONES,
)

# Chance of keeping a constraint at middle quality.
_HABIT: Final[dict[str, float]] = {
    "kind": 0.75, "number": 0.6, "order": 0.3, "required": 0.3, "avoided": 0.7,
    "cheerful": 0.65, "calm": 0.6, "sad": 0.3, "formal": 0.3,
    "a question": 0.6, "a shout": 0.6, "thanks": 0.3, "a goodbye": 0.3,
}  # fmt: skip

Keeps = Callable[[str], bool]

_ODD_SYLLABLES: Final = ("bli", "zor", "qua", "mep", "tux", "vrim")


def write_response(request: Request, rng: random.Random, quality: float | None = None) -> str:
    """A response of about the given quality.

    Args:
        quality: 0 breaks most constraints, 1 keeps all of them; None draws it uniformly.
    """
    level = rng.random() if quality is None else quality

    def keeps(habit: str) -> bool:
        chance = _HABIT[habit] + (level - 0.5) * 0.7
        return level >= 1.0 or rng.random() < chance

    items = _items(request, rng, keeps)
    words = " and ".join(filter(None, (", ".join(items[:-1]), items[-1])))
    if rng.random() < 0.03 and level < 1.0:
        words += " " + "".join(rng.choices(_ODD_SYLLABLES, k=2))
    place = _place(request, rng, keeps)
    lead = rng.choice(LEADS)
    opener = _opener(request, rng, keeps)
    body = f"{opener}, {lead} {words}" if opener else f"{lead[0].upper()}{lead[1:]} {words}"
    if place:
        body += f" {rng.choice(('by', 'near'))} the {place}"
    misplaced, closing = _closing(request, rng, keeps)
    filler = rng.choice(FILLERS) if rng.random() < 0.35 else ""
    return " ".join(filter(None, (misplaced, body + ".", filler, closing)))


def _items(request: Request, rng: random.Random, keeps: Keeps) -> list[str]:
    number = request.number
    if not keeps("number"):
        number = max(1, number + rng.choice((-2, -1, -1, 1, 1, 2)))
    items = rng.sample(KINDS[request.kind], number)
    if not keeps("kind"):
        strange = rng.choice([kind for kind in KINDS if kind != request.kind])
        for index in rng.sample(range(number), rng.randint(1, number)):
            items[index] = rng.choice([i for i in KINDS[strange] if i not in items])
    if keeps("order"):
        items.sort(reverse=request.reverse)
    elif rng.random() < 0.75:
        items.sort(reverse=not request.reverse)
    if rng.random() < 0.04 and not keeps("kind"):
        items.append(items[0])
    return items


def _place(request: Request, rng: random.Random, keeps: Keeps) -> str:
    if request.required:
        if keeps("required"):
            return request.word
    elif not keeps("avoided"):
        return request.word
    other = rng.choice([place for place in PLACES if place != request.word])
    return other if rng.random() < 0.2 else ""


def _opener(request: Request, rng: random.Random, keeps: Keeps) -> str:
    if keeps(request.tone):
        return _usual(OPENERS[request.tone], rng)
    others = [tone for tone in TONES if tone != request.tone]
    draw = rng.random()
    if draw < 0.7:
        return _usual(("Today", "", "Well", "As for me", "Listen"), rng)
    if draw < 0.9:
        return rng.choice(OPENERS[rng.choice(others)])
    return f"{rng.choice(OPENERS[request.tone])}, {rng.choice(TONES[rng.choice(others)])}"


def _closing(request: Request, rng: random.Random, keeps: Keeps) -> tuple[str, str]:
    if keeps(request.ending):
        return "", _usual(CLOSINGS[request.ending], rng)
    draw = rng.random()
    if draw < 0.7:
        return "", _usual(("", *CLOSINGS["plain"]), rng)
    if draw < 0.9:
        other = rng.choice([ending for ending in ENDINGS if ending != request.ending])
        return "", rng.choice(CLOSINGS[other])
    return MISPLACED[request.ending], rng.choice(("", *CLOSINGS["plain"]))


def _usual(phrases: tuple[str, ...], rng: random.Random) -> str:
    """The first of the phrases mostly, or another one."""
    return phrases[0] if rng.random() < 0.65 else rng.choice(phrases[1:])


assert not set(KIND_OF_ITEM) & set(PLACES)
