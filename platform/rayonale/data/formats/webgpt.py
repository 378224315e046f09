"""WebGPT comparisons: two transcripts with scores that say which one is preferred."""

from __future__ import annotations

import re
from typing import Any

from rayonale.data.fields import BadRow, finite, items, rest, shown
from rayonale.data.formats.layout import Format
from rayonale.records import Message, RejectKind

_TURN = re.compile(r"(?:\A\s*|\n\s*)## (Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def webgpt(raw: dict[str, Any]) -> dict[str, Any]:
    r"""Two texts, two scores; the higher score is preferred, a tie is filtered (`equal_scores`).

    Raw::

        {"text": ["## Human:\nName two birds.\n\n## Assistant:\nrobin, wren",
                  "## Human:\nName two birds.\n\n## Assistant:\nrobin, oak"],
         "score": [1.5, 0.5]}

    Converted::

        {"prompt":   [{"role": "user", "content": "Name two birds."}],
         "chosen":   [{"role": "assistant", "content": "robin, wren"}],
         "rejected": [{"role": "assistant", "content": "robin, oak"}],
         "score_chosen": 1.5, "score_rejected": 0.5, "metadata": {}}
    """
    texts, scores = items(raw, "text", 2), items(raw, "score", 2)
    marks = [finite(score, f"score[{place}]") for place, score in enumerate(scores)]
    one, other = (_turns(text, f"text[{place}]") for place, text in enumerate(texts))
    if one[:-1] != other[:-1]:
        raise BadRow("prompts_differ", "text[0] and text[1] part before the last turn")
    if marks[0] == marks[1]:
        raise BadRow("equal_scores", f"score: found {marks}, a tie", RejectKind.FILTERED)
    if marks[0] < marks[1]:
        one, other, marks = other, one, marks[::-1]
    return {
        "prompt": one[:-1],
        "chosen": one[-1:],
        "rejected": other[-1:],
        "score_chosen": marks[0],
        "score_rejected": marks[1],
        "metadata": rest(raw, "text", "score"),
    }


def _turns(text: Any, key: str) -> list[Message]:
    parts = _TURN.split(text) if isinstance(text, str) else []
    if len(parts) < 3 or parts[0].strip():
        raise BadRow(
            "wrong_roles",
            f"{key}: found {shown(text)}, expected turns that begin with '## Human:' and "
            "'## Assistant:'",
        )
    return [
        {"role": _ROLES[name], "content": said.strip()}
        for name, said in zip(parts[1::2], parts[2::2], strict=True)
    ]


def _matches(raw: dict[str, Any]) -> bool:
    return all(isinstance(raw.get(k), list) and len(raw[k]) == 2 for k in ("text", "score"))


FORMAT = Format(
    name="webgpt",
    row_type="pair",
    convert=webgpt,
    matches=_matches,
    expects="text: two transcripts; score: two numbers",
)
