"""PandaLM's test data: two responses to an instruction, labelled by three annotators."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rayonale.data.fields import assistant, optional_text, rest, text, user
from rayonale.data.formats.judged import named_only, one_of
from rayonale.data.formats.layout import Format

_LABELS = {0: 1.5, 1: 1.0, 2: 2.0}


def pandalm(raw: dict[str, Any]) -> dict[str, Any]:
    """The label is the majority of three; where all differ there is none.

    Raw (arXiv 2306.05087)::

        {"idx": 0, "instruction": "Name birds.", "input": "Two of them.",
         "response1": "robin, oak", "response2": "robin, wren", "annotator1": 2,
         "annotator2": 2, "annotator3": 0}

    Converted (a judgement set)::

        {"prompt": [{"role": "user", "content": "Name birds.\\n\\nTwo of them."}],
         "responses": [[{"role": "assistant", "content": "robin, oak"}],
                       [{"role": "assistant", "content": "robin, wren"}]],
         "label": 2.0, "judgements": [],
         "metadata": {"idx": 0, "annotator1": 2, "annotator2": 2, "annotator3": 0}}
    """
    told = Counter(one_of(raw, f"annotator{n}", _LABELS) for n in (1, 2, 3))
    label, votes = told.most_common(1)[0]
    given = [text(raw, "instruction"), optional_text(raw, "input")]
    return {
        "prompt": [user("\n\n".join(filter(None, given)))],
        "responses": [[assistant(text(raw, f"response{n}"))] for n in (1, 2)],
        "label": label if votes > 1 else None,
        "judgements": [],
        "metadata": rest(raw, "instruction", "input", "response1", "response2"),
    }


FORMAT = Format(
    name="pandalm",
    row_type="judgement_set",
    convert=pandalm,
    matches=named_only,
    expects="instruction, input, response1, response2: text; annotator1 … 3: 0, 1 or 2",
)
