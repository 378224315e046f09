"""LLMBar: an instruction, two outputs, and which of them follows it."""

from __future__ import annotations

from typing import Any

from rayonale.data.fields import BadRow, assistant, rest, shown, text, user
from rayonale.data.formats.layout import Format


def llmbar(raw: dict[str, Any]) -> dict[str, Any]:
    """The output that the label names is the chosen one; the subset stays in the metadata.

    Raw::

        {"input": "Name two birds.", "output_1": "robin, oak", "output_2": "robin, wren",
         "label": 2, "subset": "Natural"}

    Converted::

        {"prompt":   [{"role": "user", "content": "Name two birds."}],
         "chosen":   [{"role": "assistant", "content": "robin, wren"}],
         "rejected": [{"role": "assistant", "content": "robin, oak"}],
         "metadata": {"label": 2, "subset": "Natural"}}
    """
    label = raw.get("label")
    if label not in (1, 2) or isinstance(label, bool):
        raise BadRow("unknown_choice", f"label: found {shown(label)}, expected 1 or 2")
    outputs = [text(raw, "output_1"), text(raw, "output_2")]
    return {
        "prompt": [user(text(raw, "input"))],
        "chosen": [assistant(outputs[int(label) - 1])],
        "rejected": [assistant(outputs[2 - int(label)])],
        "metadata": rest(raw, "input", "output_1", "output_2"),
    }


def _matches(raw: dict[str, Any]) -> bool:
    return all(isinstance(raw.get(key), str) for key in ("input", "output_1", "output_2"))


FORMAT = Format(
    name="llmbar",
    row_type="pair",
    convert=llmbar,
    matches=_matches,
    expects="input, output_1, output_2: text; label: 1 or 2",
)
