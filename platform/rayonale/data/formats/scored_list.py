"""Scored lists: several responses to one prompt, each with a score (best-of-n data, RRHF)."""

from __future__ import annotations

from typing import Any

from rayonale.data.fields import (
    BadRow,
    assistant,
    finite,
    items,
    message,
    messages,
    rest,
    shown,
    text,
    user,
)
from rayonale.data.formats.layout import Format
from rayonale.records import Message


def scored_list(raw: dict[str, Any]) -> dict[str, Any]:
    """A prompt (text or messages), its responses, and their scores in the same order.

    Raw::

        {"prompt": "Name two birds.", "responses": ["robin, oak", "robin, wren"],
         "scores": [5.0, 9.0]}

    Converted (a ranked list)::

        {"prompt":    [{"role": "user", "content": "Name two birds."}],
         "responses": [[{"role": "assistant", "content": "robin, oak"}],
                       [{"role": "assistant", "content": "robin, wren"}]],
         "scores": [5.0, 9.0], "metadata": {}}
    """
    found = items(raw, "responses")
    scores = items(raw, "scores")
    if len(scores) != len(found):
        raise BadRow(
            "lists_differ",
            f"scores: found {len(scores)} for {len(found)} responses, expected one each",
        )
    if not found:
        raise BadRow("empty_field", "responses: found none")
    as_messages = isinstance(raw.get("prompt"), list)
    return {
        "prompt": messages(raw, "prompt") if as_messages else [user(text(raw, "prompt"))],
        "responses": [_response(each, f"responses[{place}]") for place, each in enumerate(found)],
        "scores": [finite(each, f"scores[{place}]") for place, each in enumerate(scores)],
        "metadata": rest(raw, "prompt", "responses", "scores"),
    }


def _response(value: Any, where: str) -> list[Message]:
    if isinstance(value, str):
        return [assistant(value)]
    if isinstance(value, list) and len(value) == 1:
        return [message(value[0], where)]
    raise BadRow("wrong_type", f"{where}: found {shown(value)}, expected text or one message")


def _matches(raw: dict[str, Any]) -> bool:
    return "prompt" in raw and all(
        isinstance(raw.get(key), list) for key in ("responses", "scores")
    )


FORMAT = Format(
    name="scored_list",
    row_type="ranked_list",
    convert=scored_list,
    matches=_matches,
    expects="prompt (text or messages), responses: list of text, scores: list of numbers",
)
