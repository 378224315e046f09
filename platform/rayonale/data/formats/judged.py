"""What the formats of judged data share: the rubric, the data's own judgement, an order of two."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from rayonale.data.fields import BadRow, assistant, finite, shown
from rayonale.records import Message


def given_judgement(rationale: str, verdict: float, order: str | None) -> dict[str, Any]:
    """A judgement that comes with the data (a teacher's), as `judgements` has it."""
    return {
        "text": f"{rationale} [RESULT] {verdict:g}",
        "rationale": rationale,
        "verdict": verdict,
        "status": "ok",
        "order": order,
    }


def whole_number(value: Any, key: str, low: int, high: int) -> float:
    """A score as a number or its digits.

    Raises:
        BadRow: anything else, or a number outside low … high.
    """
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,3}\s*", value, re.ASCII):
        value = int(value)
    number = finite(value, key)
    if number != int(number) or not low <= number <= high:
        raise BadRow("unknown_choice", f"{key}: found {shown(value)}, expected {low} to {high}")
    return number


def one_of(raw: Mapping[str, Any], key: str, choices: Mapping[Any, float]) -> float:
    """The value of a label.

    Raises:
        BadRow: the label is none of the choices.
    """
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int) or value not in choices:
        told = ", ".join(map(repr, choices))
        raise BadRow("unknown_choice", f"{key}: found {shown(value)}, expected one of {told}")
    return choices[value]


def rubric_of(criteria: str, descriptions: Mapping[int, str]) -> str:
    """A rubric as judges are shown it: Prometheus's form (arXiv 2310.08491).

    Example::

        [Does the answer fit?]
        Score 1: Not at all.
        Score 2: …
    """
    told = "\n".join(f"Score {score}: {what}" for score, what in sorted(descriptions.items()))
    return f"[{criteria}]\n{told}" if told else f"[{criteria}]"


def either_way(better: str, worse: str) -> tuple[list[list[Message]], float]:
    """Responses and label of data that only says which one is better.

    Which comes first follows from a hash of the texts: a judge that always names the first one is
    then right half of the time.
    """
    key = f"{len(better)} {better}{worse}".encode("utf-8", "surrogatepass")
    first = blake2b(key, digest_size=1).digest()[0] % 2 == 0
    texts = [better, worse] if first else [worse, better]
    return [[assistant(text)] for text in texts], 1.0 if first else 2.0


def named_only(raw: dict[str, Any]) -> bool:
    """For layouts whose fields others have too: they are never guessed, only named."""
    return False
