"""ShareGPT preference: `from`/`value` messages, as LLaMA-Factory keeps them."""

from __future__ import annotations

from typing import Any

from rayonale.data.fields import message, messages, optional_text, required, rest, with_system
from rayonale.data.formats.layout import Format


def sharegpt(raw: dict[str, Any]) -> dict[str, Any]:
    """A conversation and two next messages.

    Raw::

        {"conversations": [{"from": "human", "value": "Name two birds."}],
         "chosen":   {"from": "gpt", "value": "robin, wren"},
         "rejected": {"from": "gpt", "value": "robin, oak"}}

    Converted::

        {"prompt":   [{"role": "user", "content": "Name two birds."}],
         "chosen":   [{"role": "assistant", "content": "robin, wren"}],
         "rejected": [{"role": "assistant", "content": "robin, oak"}],
         "metadata": {}}

    A `system` field becomes a system message, as a first turn `from: system` does.
    """
    prompt = messages(raw, "conversations", "from", "value")
    columns: dict[str, Any] = {"prompt": with_system(optional_text(raw, "system"), prompt)}
    for key in ("chosen", "rejected"):
        value = required(raw, key, "a message {from, value}")
        columns[key] = [message(value, key, "from", "value")]
    columns["metadata"] = rest(raw, "conversations", "chosen", "rejected", "system")
    return columns


def _matches(raw: dict[str, Any]) -> bool:
    return isinstance(raw.get("conversations"), list) and all(
        isinstance(raw.get(key), dict) for key in ("chosen", "rejected")
    )


FORMAT = Format(
    name="sharegpt",
    row_type="pair",
    convert=sharegpt,
    matches=_matches,
    expects="conversations: [{from, value}]; chosen, rejected: {from, value}",
)
