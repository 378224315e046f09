"""RewardBench: a prompt, a chosen and a rejected response, and the subset they belong to."""

from __future__ import annotations

from typing import Any

from rayonale.data.fields import messages, rest, text, user
from rayonale.data.formats.judged import either_way, named_only
from rayonale.data.formats.layout import Format


def reward_bench(raw: dict[str, Any]) -> dict[str, Any]:
    """Which response comes first follows from a hash of both; the subset stays in the metadata.

    Raw (arXiv 2403.13787; the layout of allenai/reward-bench)::

        {"prompt": "Name two birds.", "chosen": "robin, wren", "rejected": "robin, oak",
         "chosen_model": "a", "rejected_model": "b", "subset": "alpacaeval-easy", "id": 3}

    Converted (a judgement set)::

        {"prompt": [{"role": "user", "content": "Name two birds."}],
         "responses": [[{"role": "assistant", "content": "robin, wren"}],
                       [{"role": "assistant", "content": "robin, oak"}]],
         "label": 1.0, "judgements": [],
         "metadata": {"chosen_model": "a", "rejected_model": "b", "subset": "alpacaeval-easy",
                      "id": 3}}
    """
    responses, label = either_way(text(raw, "chosen"), text(raw, "rejected"))
    as_messages = isinstance(raw.get("prompt"), list)
    return {
        "prompt": messages(raw, "prompt") if as_messages else [user(text(raw, "prompt"))],
        "responses": responses,
        "label": label,
        "judgements": [],
        "metadata": rest(raw, "prompt", "chosen", "rejected"),
    }


FORMAT = Format(
    name="reward_bench",
    row_type="judgement_set",
    convert=reward_bench,
    matches=named_only,
    expects="prompt, chosen, rejected: text; subset",
)
