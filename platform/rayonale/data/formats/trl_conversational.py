"""TRL's conversational preference layout: messages in every field."""

from __future__ import annotations

from typing import Any

from rayonale.data.fields import messages, rest, scores
from rayonale.data.formats.layout import Format


def trl_conversational(raw: dict[str, Any]) -> dict[str, Any]:
    """The layout that ours follows.

    Raw::

        {"prompt":   [{"role": "user", "content": "Name two birds."}],
         "chosen":   [{"role": "assistant", "content": "robin, wren"}],
         "rejected": [{"role": "assistant", "content": "robin, oak"}]}

    Converted: the same, with `metadata` for further fields and scores if there are any.
    """
    return {
        "prompt": messages(raw, "prompt"),
        "chosen": messages(raw, "chosen"),
        "rejected": messages(raw, "rejected"),
        **scores(raw),
        "metadata": rest(raw, "prompt", "chosen", "rejected", "score_chosen", "score_rejected"),
    }


def _matches(raw: dict[str, Any]) -> bool:
    return all(isinstance(raw.get(key), list) for key in ("prompt", "chosen", "rejected"))


FORMAT = Format(
    name="trl_conversational",
    row_type="pair",
    convert=trl_conversational,
    matches=_matches,
    expects="prompt, chosen, rejected: lists of messages",
)
