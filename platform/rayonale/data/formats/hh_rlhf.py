"""HH-RLHF: two transcripts that share their beginning."""

from __future__ import annotations

import re
from typing import Any

from rayonale.data.fields import BadRow, rest, text
from rayonale.data.formats.layout import Format
from rayonale.records import Message

_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def hh_rlhf(raw: dict[str, Any]) -> dict[str, Any]:
    r"""Two transcripts; the last turn of each is the response, what is before is the prompt.

    Raw::

        {"chosen":   "\n\nHuman: Name two birds.\n\nAssistant: robin, wren",
         "rejected": "\n\nHuman: Name two birds.\n\nAssistant: robin, oak"}

    Converted::

        {"prompt":   [{"role": "user", "content": "Name two birds."}],
         "chosen":   [{"role": "assistant", "content": "robin, wren"}],
         "rejected": [{"role": "assistant", "content": "robin, oak"}],
         "metadata": {}}

    White space around turns is dropped. Pairs whose transcripts part before the last turn are
    rejected (`prompts_differ`): their responses answer different questions.
    """
    chosen, rejected = (turns(text(raw, key), key) for key in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        raise BadRow(
            "prompts_differ",
            f"chosen ({len(chosen)} turns) and rejected ({len(rejected)} turns) part before the "
            "last turn",
        )
    return {
        "prompt": chosen[:-1],
        "chosen": chosen[-1:],
        "rejected": rejected[-1:],
        "metadata": rest(raw, "chosen", "rejected"),
    }


def turns(transcript: str, key: str) -> list[Message]:
    """Messages of a `\\n\\nHuman: … \\n\\nAssistant: …` transcript."""
    before, *parts = _TURN.split(transcript)
    if not parts or before.strip():
        raise BadRow(
            "wrong_roles",
            f"{key}: found {transcript[:60]!r}, expected turns that begin with 'Human:' and "
            "'Assistant:'",
        )
    return [
        {"role": _ROLES[name], "content": said.strip()}
        for name, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def _matches(raw: dict[str, Any]) -> bool:
    return "prompt" not in raw and all(
        isinstance(raw.get(key), str) and raw[key].lstrip().startswith("Human:")
        for key in ("chosen", "rejected")
    )


FORMAT = Format(
    name="hh_rlhf",
    row_type="pair",
    convert=hh_rlhf,
    matches=_matches,
    expects="chosen, rejected: transcripts that begin with 'Human:'",
)
