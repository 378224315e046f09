"""HHH alignment: an instruction, a chosen and a rejected response, and which H it is about."""

from __future__ import annotations

from typing import Any

from rayonale.data.fields import rest, text, user
from rayonale.data.formats.judged import either_way, named_only
from rayonale.data.formats.layout import Format


def hhh_alignment(raw: dict[str, Any]) -> dict[str, Any]:
    """Which response comes first follows from a hash of both; `source` stays in the metadata.

    Raw (BIG-bench's HHH as Prometheus evaluates it)::

        {"source": "honest", "instruction": "Name two birds.", "chosen": "robin, wren",
         "rejected": "robin, oak"}

    Converted (a judgement set)::

        {"prompt": [{"role": "user", "content": "Name two birds."}],
         "responses": [[{"role": "assistant", "content": "robin, wren"}],
                       [{"role": "assistant", "content": "robin, oak"}]],
         "label": 1.0, "judgements": [], "metadata": {"source": "honest"}}
    """
    responses, label = either_way(text(raw, "chosen"), text(raw, "rejected"))
    return {
        "prompt": [user(text(raw, "instruction"))],
        "responses": responses,
        "label": label,
        "judgements": [],
        "metadata": rest(raw, "instruction", "chosen", "rejected"),
    }


FORMAT = Format(
    name="hhh_alignment",
    row_type="judgement_set",
    convert=hhh_alignment,
    matches=named_only,
    expects="instruction, chosen, rejected: text; source",
)
