"""The prompt after which the policy writes a rationale, and the rationale in its order.

A rationale names the responses by where its own prompt showed them ("response A", "the first
one"). When training shows them the other way round, those names are exchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import xxhash

from rayonale import prompts
from rayonale.enrich.transcript import prompt_text, response_text
from rayonale.records import Message, RejectKind
from rayonale.train.settings import RationalePrompt

# Names of the two responses that can be exchanged: "response A", "the first one", "the latter".
_OTHER = {"a": "b", "1": "2", "first": "second", "former": "latter"}
_OTHER |= {there: here for here, there in _OTHER.items()}
_NAME = re.compile(
    r"(?P<before>\b(?:responses?|answers?|options?|assistants?)\s+\(?)(?P<name>[AB12])\b"
    r"|\b(?P<ordinal>first|second)(?=\s+(?:response|answer|option|one)\b)"
    r"|(?<=\bthe )(?P<place>former|latter)\b",
    re.IGNORECASE,
)
# Words that point at a response by its place in a way that cannot be exchanged.
_UNCLEAR = re.compile(
    r"\b(?:above|below|preceding|previous|following|next|last|other)\s+(?:response|answer|one)\b"
    r"|\b(?:response|answer)s?\s+(?:above|below)\b",
    re.IGNORECASE,
)
# What still names a response by its place once the exchangeable names are taken out.
_LEFT = re.compile(
    r"\bB\b|\bA\b(?=['’]s\b|\s*[,.;:)]|\s+(?:and|or|but|is|was|has|does|than|while)\b)|\bthan A\b"
    r"|(?i:\bthe (?:first|second)\b)"
    r"|\b(?i:responses?|answers?|options?)\s+(?:#|(?i:one|two)\b)|\b(?:1st|2nd)\b"
)


class RationaleRejected(ValueError):
    """A row whose rationale cannot be trained on; `reason` is the reject's code."""

    def __init__(self, reason: str, detail: str, kind: RejectKind = RejectKind.FILTERED) -> None:
        super().__init__(detail)
        self.reason, self.kind = reason, kind


def rationale_example(
    row: Mapping[str, Any], settings: RationalePrompt, seed: int
) -> tuple[list[Message], list[Message]]:
    """Prompt messages and rationale message of a row's first rationale.

    Where the prompt follows the chosen response, the messages are the row's conversation with it,
    and the rendered one.

    Raises:
        RationaleRejected: the row has no rationale, or one that names the responses by place
            in words that cannot be exchanged when the order changes.
        ValueError: the template is unknown or needs variables that training does not have.
    """
    rationales = row["rationales"] or []
    if not rationales or not (rationales[0]["text"] or "").strip():
        raise RationaleRejected("no_rationale", "the row has no rationale")
    rationale = rationales[0]
    if rationale.get("finish_reason") == "length":
        raise RationaleRejected(
            "rationale_cut_off",
            "the rationale was cut at the sampling limit (max_tokens): it has no end to learn",
            RejectKind.LIMIT,
        )
    generated_first = bool(rationale["chosen_first"])
    chosen_first = {
        "generated": generated_first,
        "chosen_first": True,
        "shuffled": bool(xxhash.xxh3_64_intdigest(f"{seed}/order/{row['id']}".encode()) & 1),
    }[settings.order]
    text = rationale["text"].strip()
    if chosen_first != generated_first:
        if unclear := _UNCLEAR.search(text) or _LEFT.search(_NAME.sub("", text)):
            raise RationaleRejected(
                "unclear_reference",
                f"the rationale says {unclear[0]!r}, which cannot follow a changed order",
            )
        text = exchange_names(text)
    assert settings.template is not None, "the stage resolves the template"
    rendered = prompts.render(
        settings.template,
        prompt=prompt_text(row["prompt"]),
        chosen=response_text(row["chosen"]),
        rejected=response_text(row["rejected"]),
        chosen_first=chosen_first,
    )
    above = [*row["prompt"], *row["chosen"]] if settings.follows == "chosen" else []
    asked = Message(role="user", content=rendered)
    return [*above, asked], [Message(role="assistant", content=text)]


def exchange_names(text: str) -> str:
    """What is said of response A is said of response B, and the other way round.

    `Response A beats B; the first one is short.` → `Response B beats A; the second one is short.`
    A lone letter is exchanged only where it cannot be the article: "A" before a word stays
    unless "response", "answer" or "option" stands before it.
    """
    return _NAME.sub(_exchange, text)


def _exchange(match: re.Match[str]) -> str:
    before, name = match["before"] or "", match["name"] or match["ordinal"] or match["place"]
    other = _OTHER[name.lower()]
    if name.isupper():
        other = other.upper()
    elif name[0].isupper():
        other = other.capitalize()
    return before + other
