"""KTO: single responses with a label, unpaired."""

from __future__ import annotations

from typing import Any

from rayonale.data.fields import assistant, messages, rest, text, truth, user
from rayonale.data.formats.layout import Format


def kto(raw: dict[str, Any]) -> dict[str, Any]:
    """A conversation whose last message is labelled, or TRL's prompt and completion.

    Raw (either form)::

        {"messages": [{"role": "user", "content": "Name two birds."},
                      {"role": "assistant", "content": "robin, wren"}], "label": true}
        {"prompt": "Name two birds.", "completion": "robin, wren", "label": true}

    Converted (a labelled row)::

        {"prompt":   [{"role": "user", "content": "Name two birds."}],
         "response": [{"role": "assistant", "content": "robin, wren"}],
         "label": true, "metadata": {}}
    """
    label = truth(raw, "label")
    if "messages" in raw or "completion" not in raw:
        conversation = messages(raw, "messages")
        return {
            "prompt": conversation[:-1],
            "response": conversation[-1:],
            "label": label,
            "metadata": rest(raw, "messages", "label"),
        }
    left = rest(raw, "prompt", "completion", "label")
    columns: dict[str, Any] = {"label": label, "metadata": left}
    as_messages = isinstance(raw.get("prompt"), list)
    columns["prompt"] = messages(raw, "prompt") if as_messages else [user(text(raw, "prompt"))]
    as_messages = isinstance(raw.get("completion"), list)
    columns["response"] = (
        messages(raw, "completion") if as_messages else [assistant(text(raw, "completion"))]
    )
    return columns


def _matches(raw: dict[str, Any]) -> bool:
    return "label" in raw and (
        isinstance(raw.get("messages"), list) or ("prompt" in raw and "completion" in raw)
    )


FORMAT = Format(
    name="kto",
    row_type="labelled",
    convert=kto,
    matches=_matches,
    expects="messages (or prompt and completion) and label: true or false",
)
