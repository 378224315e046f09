"""Implicit prompt: the prompt is what chosen and rejected have in common at their beginning."""

from __future__ import annotations

from typing import Any

from rayonale.data.fields import (
    BadRow,
    assistant,
    messages,
    rest,
    scores,
    text,
    user,
)
from rayonale.data.formats import hh_rlhf
from rayonale.data.formats.layout import Format


def implicit_prompt(raw: dict[str, Any]) -> dict[str, Any]:
    """Messages or text with a shared beginning.

    Raw (either form)::

        {"chosen":   [{"role": "user", "content": "Name two birds."},
                      {"role": "assistant", "content": "robin, wren"}],
         "rejected": [{"role": "user", "content": "Name two birds."},
                      {"role": "assistant", "content": "robin, oak"}]}
        {"chosen": "Name two birds. robin, wren", "rejected": "Name two birds. crow, oak"}

    Converted::

        {"prompt":   [{"role": "user", "content": "Name two birds."}],
         "chosen":   [{"role": "assistant", "content": "robin, wren"}],
         "rejected": [{"role": "assistant", "content": "robin, oak"}],
         "metadata": {}}

    Text is parted at the last white space before the first difference (as in TRL's
    `extract_prompt`, which may part within a word: we do not).
    """
    columns = _of_messages(raw) if isinstance(raw.get("chosen"), list) else _of_text(raw)
    left = rest(raw, "chosen", "rejected", "score_chosen", "score_rejected")
    return {**columns, **scores(raw), "metadata": left}


def _of_messages(raw: dict[str, Any]) -> dict[str, Any]:
    chosen, rejected = messages(raw, "chosen"), messages(raw, "rejected")
    shared = 0
    for one, other in zip(chosen[:-1], rejected[:-1], strict=False):
        if one != other:
            break
        shared += 1
    if shared == 0:
        raise BadRow("prompts_differ", "chosen, rejected: found no shared messages at the start")
    if len(chosen) != shared + 1 or len(rejected) != shared + 1:
        raise BadRow(
            "prompts_differ",
            f"chosen ({len(chosen)} messages), rejected ({len(rejected)} messages): only {shared} "
            "shared; expected all but the last",
        )
    return {"prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}


def _of_text(raw: dict[str, Any]) -> dict[str, Any]:
    chosen, rejected = text(raw, "chosen"), text(raw, "rejected")
    end = min(len(chosen), len(rejected))
    same = next((i for i in range(end) if chosen[i] != rejected[i]), end)
    while same > 0 and not chosen[same - 1].isspace():
        same -= 1
    prompt = chosen[:same].strip()
    if not prompt:
        raise BadRow("prompts_differ", "chosen, rejected: found no shared words at the start")
    return {
        "prompt": [user(prompt)],
        "chosen": [assistant(chosen[same:].strip())],
        "rejected": [assistant(rejected[same:].strip())],
    }


def _matches(raw: dict[str, Any]) -> bool:
    if any(key in raw for key in ("prompt", "question", "conversations", "instruction")):
        return False
    kinds = {type(raw.get("chosen")), type(raw.get("rejected"))}
    return kinds == {list} or (kinds == {str} and not hh_rlhf.FORMAT.matches(raw))


FORMAT = Format(
    name="implicit_prompt",
    row_type="pair",
    convert=implicit_prompt,
    matches=_matches,
    expects="chosen, rejected (and no prompt): messages or text that begin alike",
)
