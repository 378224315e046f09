"""Requests: the constraints of a tinyworld prompt, its wording, and the way back.

    Request("birds", 3, False, "calm", "thanks", "river", True)
      ⇄  "Name three birds in alphabetical order in a calm tone.
          Use the word river. End with thanks."

`render` and `parse` are inverses, so that the rubric needs the prompt's text only.
"""

import random
import re
from dataclasses import dataclass
from typing import Final

from rayonale.tinyworld.vocabulary import ENDINGS, KINDS, NUMBERS, ORDERS, PLACES, TONES

# {rule} begins with a lower-case letter, {Rule} with a capital one.
PHRASINGS: Final = (
    "Name {number} {kind} {order} in a {tone} tone. {Rule}. End with {ending}.",
    "Write a {tone} note with {number} {kind} {order}. {Rule} and end with {ending}.",
    "In a {tone} tone, list {number} {kind} {order}, then end with {ending}. {Rule}.",
    "Please give me {number} {kind} {order}. Keep it {tone}, {rule} and close with {ending}.",
    "I need {number} {kind} {order}. {Rule}, stay {tone} and end with {ending}.",
    "{Rule}. List {number} {kind} {order} in a {tone} tone and close with {ending}.",
)


@dataclass(frozen=True)
class Request:
    """What a prompt asks for.

    kind: a key of `KINDS`; number: 2–5; reverse: Z to A instead of A to Z;
    tone: a key of `TONES`; ending: one of `ENDINGS`; word: one of `PLACES`,
    which must be used (`required`) or must not.
    """

    kind: str
    number: int
    reverse: bool
    tone: str
    ending: str
    word: str
    required: bool


_NUMBER_WORD: Final = {value: word for word, value in NUMBERS.items()}
_ORDER_PHRASE: Final = {reverse: phrase for phrase, reverse in ORDERS.items()}


def _pattern(phrasing: str) -> re.Pattern[str]:
    def choice(name: str, values: object) -> str:
        return f"(?P<{name}>{'|'.join(re.escape(str(value)) for value in values)})"  # type: ignore[attr-defined]

    slots = {
        "number": choice("number", NUMBERS),
        "kind": choice("kind", KINDS),
        "order": choice("order", ORDERS),
        "tone": choice("tone", TONES),
        "ending": choice("ending", ENDINGS),
        "rule": choice("verb", ("use", "avoid")) + " the word " + choice("word", PLACES),
        "Rule": choice("verb", ("Use", "Avoid")) + " the word " + choice("word", PLACES),
    }
    escaped = re.sub(r"\{(\w+)\}", lambda slot: "\0" + slot.group(1) + "\0", phrasing)
    parts = escaped.split("\0")
    return re.compile(
        "".join(slots[part] if index % 2 else re.escape(part) for index, part in enumerate(parts))
    )


_PATTERNS: Final = tuple(_pattern(phrasing) for phrasing in PHRASINGS)


def sample_request(rng: random.Random) -> Request:
    """A request drawn uniformly."""
    return Request(
        kind=rng.choice(tuple(KINDS)),
        number=rng.choice(tuple(NUMBERS.values())),
        reverse=rng.random() < 0.5,
        tone=rng.choice(tuple(TONES)),
        ending=rng.choice(ENDINGS),
        word=rng.choice(PLACES),
        required=rng.random() < 0.5,
    )


def render(request: Request, phrasing: int = 0) -> str:
    """The prompt text of a request in one of the `PHRASINGS`."""
    rule = f"{'use' if request.required else 'avoid'} the word {request.word}"
    return PHRASINGS[phrasing].format(
        number=_NUMBER_WORD[request.number],
        kind=request.kind,
        order=_ORDER_PHRASE[request.reverse],
        tone=request.tone,
        ending=request.ending,
        rule=rule,
        Rule=rule[0].upper() + rule[1:],
    )


def sample_prompt(rng: random.Random) -> str:
    """The text of a random request in a random phrasing."""
    return render(sample_request(rng), rng.randrange(len(PHRASINGS)))


def parse(prompt_text: str) -> Request:
    """Read the request back out of a prompt text.

    Text before or after it is allowed (a goal put in front, say).

    Raises:
        ValueError: no request, or more than one, is in the text.
    """
    found = [match for pattern in _PATTERNS for match in pattern.finditer(prompt_text)]
    if len(found) != 1:
        shown = prompt_text if len(prompt_text) <= 80 else prompt_text[:77] + "..."
        raise ValueError(
            f"not a tinyworld prompt: found {len(found)} requests in {shown!r}, expected one "
            f"such as {PHRASINGS[0]!r}"
        )
    slot = found[0].groupdict()
    return Request(
        kind=slot["kind"],
        number=NUMBERS[slot["number"]],
        reverse=ORDERS[slot["order"]],
        tone=slot["tone"],
        ending=slot["ending"],
        word=slot["word"],
        required=slot["verb"].lower() == "use",
    )
