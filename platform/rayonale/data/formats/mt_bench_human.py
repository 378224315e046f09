"""MT-Bench human judgements: two conversations, and which one a person preferred."""

from __future__ import annotations

from typing import Any

from rayonale.data.fields import BadRow, Message, assistant, messages, name, rest, user
from rayonale.data.formats.judged import named_only, one_of
from rayonale.data.formats.layout import Format

_WINNERS = {"model_a": 1.0, "model_b": 2.0, "tie": 1.5, "tie (inconsistent)": 1.5}


def mt_bench_human(raw: dict[str, Any]) -> dict[str, Any]:
    """A vote on the first turn, or on both.

    The second turns follow on different first answers: then the prompt is the first question, and
    a response is all that came after it, the second question among it.

    Raw (lmsys/mt_bench_human_judgments)::

        {"question_id": 81, "model_a": "a", "model_b": "b", "winner": "model_a",
         "judge": "expert_0", "turn": 1,
         "conversation_a": [{"role": "user", "content": "Name two birds."},
                            {"role": "assistant", "content": "robin, wren"}],
         "conversation_b": [{"role": "user", "content": "Name two birds."},
                            {"role": "assistant", "content": "robin, oak"}]}

    Converted (a judgement set)::

        {"prompt": [{"role": "user", "content": "Name two birds."}],
         "responses": [[{"role": "assistant", "content": "robin, wren"}],
                       [{"role": "assistant", "content": "robin, oak"}]],
         "label": 1.0, "annotator": "expert_0", "judgements": [],
         "metadata": {"question_id": 81, "model_a": "a", "model_b": "b", "turn": 1}}
    """
    turn = raw.get("turn")
    if turn not in (1, 2) or isinstance(turn, bool):
        raise BadRow("unknown_choice", f"turn: found {turn!r}, expected 1 or 2")
    both = [messages(raw, f"conversation_{side}") for side in "ab"]
    for side, conversation in zip("ab", both, strict=True):
        roles = [message["role"] for message in conversation[: 2 * turn]]
        if roles != ["user", "assistant"] * turn:
            raise BadRow("wrong_roles", f"conversation_{side}: found {', '.join(roles)}")
    return {
        "prompt": [user(both[0][0]["content"])],
        "responses": [[assistant(_told(conversation, turn))] for conversation in both],
        "label": one_of(raw, "winner", _WINNERS),
        "annotator": name(raw, "judge"),
        "judgements": [],
        "metadata": rest(raw, "conversation_a", "conversation_b", "winner", "judge"),
    }


def _told(conversation: list[Message], turn: int) -> str:
    first = conversation[1]["content"]
    if turn == 1:
        return first
    return (
        f"{first}\n\nUser: {conversation[2]['content']}\n\nAssistant: {conversation[3]['content']}"
    )


FORMAT = Format(
    name="mt_bench_human",
    row_type="judgement_set",
    convert=mt_bench_human,
    matches=named_only,
    expects="conversation_a, conversation_b: messages; winner: model_a, model_b or tie; turn",
)
