"""The exact rubric: any response to any tinyworld prompt, scored by six rules.

    attribute   5                          less
    kind        all named things fit       1 + floor(4 · share that fits)
    number      as many as asked           3 one off, 2 two off, 1 further
    order       every neighbour in order   1 + floor(4 · share in order); 1 below two things
    tone        asked tone only            3 with another tone, 2 no tone, 1 another tone only
    ending      ends as asked              3 its marker stands elsewhere, 1 nowhere
    wording     word rule kept             1 broken; minus 1 for each thing named twice, each
                                           word unknown to this world and each 5 words over 40

    overall = 1 + 9 · mean((attribute − 1) / 4), to the nearest half: 1.0, 1.5 … 10.0

A response without a letter in it has 1 in everything.
"""

import math
import re
from dataclasses import dataclass
from functools import lru_cache

from rayonale.tinyworld.requests import Request, parse
from rayonale.tinyworld.vocabulary import (
    ATTRIBUTES,
    KIND_OF_ITEM,
    KNOWN_WORDS,
    PLACES,
    TONE_OF_WORD,
)

WORD_LIMIT = 40

_WORD = re.compile(r"[^\W\d_]+|\d+|[^\w\s.,;:!?'\"()-]+|_+")


@dataclass(frozen=True)
class Score:
    """attributes: name → 1–5, in the order of `ATTRIBUTES`; overall: 1.0–10.0 in halves."""

    attributes: dict[str, int]
    overall: float


@dataclass(frozen=True)
class Facts:
    """What a response holds, before it is held against a request.

    items: distinct things in order of first mention; repeated: number of further
    mentions; tones, places: in order of mention; endings: every ending whose marker
    is in the text; ending: the one that it ends with, or None; unknown: words that
    are not of this world; words: number of words.
    """

    items: tuple[str, ...]
    repeated: int
    tones: tuple[str, ...]
    places: tuple[str, ...]
    endings: frozenset[str]
    ending: str | None
    unknown: int
    words: int


def read_facts(response_text: str) -> Facts:
    """Facts of any text; never raises."""
    words = _WORD.findall(response_text.lower())
    named = [item for item in map(_item, words) if item is not None]
    return Facts(
        items=tuple(dict.fromkeys(named)),
        repeated=len(named) - len(set(named)),
        tones=tuple(dict.fromkeys(TONE_OF_WORD[word] for word in words if word in TONE_OF_WORD)),
        places=tuple(dict.fromkeys(word for word in words if word in PLACES)),
        endings=_endings_anywhere(response_text, words),
        ending=_ending_at_end(response_text, words),
        unknown=sum(word not in KNOWN_WORDS for word in words),
        words=len(words),
    )


def score_facts(request: Request, facts: Facts) -> Score:
    """Hold facts against a request (the table on top of this file)."""
    if facts.words == 0:
        return Score(dict.fromkeys(ATTRIBUTES, 1), 1.0)
    attributes = {
        "kind": _kind(request, facts),
        "number": {0: 5, 1: 3, 2: 2}.get(abs(len(facts.items) - request.number), 1),
        "order": _order(request, facts),
        "tone": _tone(request, facts),
        "ending": 5
        if facts.ending == request.ending
        else 3
        if request.ending in facts.endings
        else 1,
        "wording": _wording(request, facts),
    }
    mean = sum((value - 1) / 4 for value in attributes.values()) / len(attributes)
    return Score(attributes, math.floor(2 * (1 + 9 * mean) + 0.5) / 2)


@lru_cache(maxsize=4096)
def _parsed(prompt_text: str) -> Request:
    return parse(prompt_text)


def score(prompt_text: str, response_text: str) -> Score:
    """The exact score of a response, from the texts alone.

    Args:
        prompt_text: the user's text; a request of tinyworld is read out of it.
        response_text: any string.

    Raises:
        ValueError: the prompt holds no tinyworld request.
    """
    return score_facts(_parsed(prompt_text), read_facts(response_text))


def verdict(overall: float) -> int:
    """The 1–5 of a pointwise judgement: up to 4.0, 5.5, 7.0, 8.5 and above."""
    return 1 + sum(overall > bound for bound in (4.0, 5.5, 7.0, 8.5))


def in_order(request: Request, first: str, second: str) -> bool:
    """Whether `first` may stand right before `second`."""
    return first > second if request.reverse else first < second


def _item(word: str) -> str | None:
    if word in KIND_OF_ITEM:
        return word
    return word[:-1] if word.endswith("s") and word[:-1] in KIND_OF_ITEM else None


def _endings_anywhere(text: str, words: list[str]) -> frozenset[str]:
    found = {
        "a question": "?" in text,
        "a shout": "!" in text,
        "thanks": "thanks" in words or "thank" in words,
        "a goodbye": "goodbye" in words or "farewell" in words,
    }
    return frozenset(ending for ending, present in found.items() if present)


def _ending_at_end(text: str, words: list[str]) -> str | None:
    last = text.rstrip()[-1:]
    if last in ("?", "!"):
        return "a question" if last == "?" else "a shout"
    if words[-1:] == ["thanks"] or words[-2:] == ["thank", "you"]:
        return "thanks"
    return "a goodbye" if words[-1:] in (["goodbye"], ["farewell"]) else None


def _kind(request: Request, facts: Facts) -> int:
    if not facts.items:
        return 1
    fitting = sum(KIND_OF_ITEM[item] == request.kind for item in facts.items)
    return 1 + 4 * fitting // len(facts.items)


def _order(request: Request, facts: Facts) -> int:
    neighbours = list(zip(facts.items, facts.items[1:], strict=False))
    if not neighbours:
        return 1
    return 1 + 4 * sum(in_order(request, *pair) for pair in neighbours) // len(neighbours)


def _tone(request: Request, facts: Facts) -> int:
    if not facts.tones:
        return 2
    if request.tone not in facts.tones:
        return 1
    return 5 if facts.tones == (request.tone,) else 3


def _wording(request: Request, facts: Facts) -> int:
    if (request.word in facts.places) != request.required:
        return 1
    excess = math.ceil(max(0, facts.words - WORD_LIMIT) / 5)
    return max(1, 5 - facts.repeated - facts.unknown - excess)
