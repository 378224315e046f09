"""TRL's standard preference layout: text in every field."""

from __future__ import annotations

from typing import Any

from rayonale.data.fields import assistant, rest, scores, text, user
from rayonale.data.formats.layout import Format
from rayonale.data.formats.ultrafeedback import has_scores


def trl_standard(raw: dict[str, Any]) -> dict[str, Any]:
    """Prompt and answers as text; the prompt becomes one user message.

    Raw::

        {"prompt": "Name two birds.", "chosen": "robin, wren", "rejected": "robin, oak"}

    Converted::

        {"prompt":   [{"role": "user", "content": "Name two birds."}],
         "chosen":   [{"role": "assistant", "content": "robin, wren"}],
         "rejected": [{"role": "assistant", "content": "robin, oak"}],
         "metadata": {}}
    """
    return {
        "prompt": [user(text(raw, "prompt"))],
        "chosen": [assistant(text(raw, "chosen"))],
        "rejected": [assistant(text(raw, "rejected"))],
        **scores(raw),
        "metadata": rest(raw, "prompt", "chosen", "rejected", "score_chosen", "score_rejected"),
    }


def _matches(raw: dict[str, Any]) -> bool:
    fields = ("prompt", "chosen", "rejected")
    return all(isinstance(raw.get(key), str) for key in fields) and not has_scores(raw)


FORMAT = Format(
    name="trl_standard",
    row_type="pair",
    convert=trl_standard,
    matches=_matches,
    expects="prompt, chosen, rejected: text, without scores",
)
