"""UltraFeedback, binarized: a prompt, the better and the worse of its answers, their scores."""

from __future__ import annotations

from typing import Any

from rayonale.data.fields import BadRow, assistant, messages, rest, scores, text, user
from rayonale.data.formats.layout import Format


def ultrafeedback(raw: dict[str, Any]) -> dict[str, Any]:
    """Answers as whole conversations or as text; scores at the top or in `metadata`.

    Raw (either form)::

        {"prompt": "Name two birds.", "score_chosen": 9.0, "score_rejected": 4.5,
         "chosen":   [{"role": "user", "content": "Name two birds."},
                      {"role": "assistant", "content": "robin, wren"}],
         "rejected": [{"role": "user", "content": "Name two birds."},
                      {"role": "assistant", "content": "robin, oak"}]}
        {"prompt": "Name two birds.", "chosen": "robin, wren", "rejected": "robin, oak",
         "metadata": {"score_chosen": 9.0, "score_rejected": 4.5}}

    Converted::

        {"prompt":   [{"role": "user", "content": "Name two birds."}],
         "chosen":   [{"role": "assistant", "content": "robin, wren"}],
         "rejected": [{"role": "assistant", "content": "robin, oak"}],
         "score_chosen": 9.0, "score_rejected": 4.5, "metadata": {}}
    """
    left = rest(raw, "prompt", "chosen", "rejected", "messages", "score_chosen", "score_rejected")
    if isinstance(left.get("metadata"), dict):
        left["metadata"] = rest(left["metadata"], "score_chosen", "score_rejected")
        left = {key: value for key, value in left.items() if key != "metadata" or value}
    if isinstance(raw.get("chosen"), list):
        chosen, rejected = messages(raw, "chosen"), messages(raw, "rejected")
        prompt = chosen[:-1]
        if prompt != rejected[:-1]:
            raise BadRow("prompts_differ", "chosen and rejected part before the last message")
        return {
            "prompt": prompt,
            "chosen": chosen[-1:],
            "rejected": rejected[-1:],
            **scores(raw),
            "metadata": left,
        }
    return {
        "prompt": [user(text(raw, "prompt"))],
        "chosen": [assistant(text(raw, "chosen"))],
        "rejected": [assistant(text(raw, "rejected"))],
        **scores(raw),
        "metadata": left,
    }


def has_scores(raw: dict[str, Any]) -> bool:
    """Whether a record carries `score_chosen`, at the top or in `metadata`."""
    nested = raw.get("metadata")
    return "score_chosen" in raw or (isinstance(nested, dict) and "score_chosen" in nested)


def _matches(raw: dict[str, Any]) -> bool:
    if not isinstance(raw.get("prompt"), str):
        return False
    kinds = {type(raw.get("chosen")), type(raw.get("rejected"))}
    return kinds == {list} or (kinds == {str} and has_scores(raw))


FORMAT = Format(
    name="ultrafeedback",
    row_type="pair",
    convert=ultrafeedback,
    matches=_matches,
    expects="prompt: text; chosen, rejected: messages, or text with score_chosen, score_rejected",
)
