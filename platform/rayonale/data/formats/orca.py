"""Orca DPO pairs: system text, question, two answers."""

from __future__ import annotations

from typing import Any

from rayonale.data.fields import assistant, optional_text, rest, scores, text, user, with_system
from rayonale.data.formats.layout import Format


def orca(raw: dict[str, Any]) -> dict[str, Any]:
    """System text (may be empty or absent: then there is no system message) and a question.

    Raw::

        {"system": "You are a helpful assistant.", "question": "Name two birds.",
         "chosen": "robin, wren", "rejected": "robin, oak"}

    Converted::

        {"prompt":   [{"role": "system", "content": "You are a helpful assistant."},
                      {"role": "user", "content": "Name two birds."}],
         "chosen":   [{"role": "assistant", "content": "robin, wren"}],
         "rejected": [{"role": "assistant", "content": "robin, oak"}],
         "metadata": {}}
    """
    return {
        "prompt": with_system(optional_text(raw, "system"), [user(text(raw, "question"))]),
        "chosen": [assistant(text(raw, "chosen"))],
        "rejected": [assistant(text(raw, "rejected"))],
        **scores(raw),
        "metadata": rest(
            raw, "system", "question", "chosen", "rejected", "score_chosen", "score_rejected"
        ),
    }


def _matches(raw: dict[str, Any]) -> bool:
    return "prompt" not in raw and all(
        isinstance(raw.get(key), str) for key in ("question", "chosen", "rejected")
    )


FORMAT = Format(
    name="orca",
    row_type="pair",
    convert=orca,
    matches=_matches,
    expects="question, chosen, rejected: text; system: text or absent",
)
