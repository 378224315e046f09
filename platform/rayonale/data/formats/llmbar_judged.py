"""LLMBar as inputs of judges: both outputs in their published order."""

from __future__ import annotations

from typing import Any

from rayonale.data.fields import assistant, rest, text, user
from rayonale.data.formats.judged import named_only, one_of
from rayonale.data.formats.layout import Format


def llmbar_judged(raw: dict[str, Any]) -> dict[str, Any]:
    """The label is what a judge should say; the subset stays in the metadata.

    Raw::

        {"input": "Name two birds.", "output_1": "robin, oak", "output_2": "robin, wren",
         "label": 2, "subset": "Natural"}

    Converted (a judgement set)::

        {"prompt": [{"role": "user", "content": "Name two birds."}],
         "responses": [[{"role": "assistant", "content": "robin, oak"}],
                       [{"role": "assistant", "content": "robin, wren"}]],
         "label": 2.0, "judgements": [], "metadata": {"subset": "Natural"}}
    """
    return {
        "prompt": [user(text(raw, "input"))],
        "responses": [[assistant(text(raw, f"output_{n}"))] for n in (1, 2)],
        "label": one_of(raw, "label", {1: 1.0, 2: 2.0}),
        "judgements": [],
        "metadata": rest(raw, "input", "output_1", "output_2", "label"),
    }


FORMAT = Format(
    name="llmbar_judged",
    row_type="judgement_set",
    convert=llmbar_judged,
    matches=named_only,
    expects="input, output_1, output_2: text; label: 1 or 2",
)
