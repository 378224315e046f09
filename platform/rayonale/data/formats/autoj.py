"""Auto-J's pairwise test data: two responses, and which one people preferred."""

from __future__ import annotations

from typing import Any

from rayonale.data.fields import assistant, rest, text, user
from rayonale.data.formats.judged import named_only, one_of
from rayonale.data.formats.layout import Format


def autoj(raw: dict[str, Any]) -> dict[str, Any]:
    """Labels 0, 1, 2 are the first, the second, a tie; the scenario stays in the metadata.

    Raw (arXiv 2310.05470)::

        {"scenario": "brainstorming", "label": 1, "prompt": "Name two birds.",
         "response 1": "robin, oak", "response 2": "robin, wren"}

    Converted (a judgement set)::

        {"prompt": [{"role": "user", "content": "Name two birds."}],
         "responses": [[{"role": "assistant", "content": "robin, oak"}],
                       [{"role": "assistant", "content": "robin, wren"}]],
         "label": 2.0, "judgements": [], "metadata": {"scenario": "brainstorming"}}
    """
    return {
        "prompt": [user(text(raw, "prompt"))],
        "responses": [[assistant(text(raw, f"response {n}"))] for n in (1, 2)],
        "label": one_of(raw, "label", {0: 1.0, 1: 2.0, 2: 1.5}),
        "judgements": [],
        "metadata": rest(raw, "prompt", "response 1", "response 2", "label"),
    }


FORMAT = Format(
    name="autoj",
    row_type="judgement_set",
    convert=autoj,
    matches=named_only,
    expects='prompt, "response 1", "response 2": text; label: 0, 1 or 2',
)
