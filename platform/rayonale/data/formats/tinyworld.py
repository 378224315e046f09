"""tinyworld: pairs of the embedded small world, whose truth is known."""

from __future__ import annotations

from typing import Any

from rayonale.data.fields import (
    BadRow,
    assistant,
    name,
    number,
    optional_text,
    rest,
    shown,
    text,
    user,
    with_system,
)
from rayonale.data.formats.layout import Format


def tinyworld(raw: dict[str, Any]) -> dict[str, Any]:
    """Two responses in the order in which they were drawn, and which one was preferred.

    Raw::

        {"prompt": "Name two birds.", "response_a": "robin, oak", "response_b": "robin, wren",
         "preferred": "b", "score_a": 5.0, "score_b": 9.0,
         "attributes_a": {"kind": 2}, "attributes_b": {"kind": 5},
         "confidence": 8, "flipped": false, "annotator": "annotator-3"}

    Converted::

        {"prompt":   [{"role": "user", "content": "Name two birds."}],
         "chosen":   [{"role": "assistant", "content": "robin, wren"}],
         "rejected": [{"role": "assistant", "content": "robin, oak"}],
         "score_chosen": 9.0, "score_rejected": 5.0, "confidence": 8.0,
         "annotator": "annotator-3",
         "metadata": {"attributes_chosen": {"kind": 5}, "attributes_rejected": {"kind": 2},
                      "preferred": "b", "flipped": false}}

    Scores are the true ones: of a flipped label, `score_chosen` is the lower.
    """
    preferred = raw.get("preferred")
    if preferred not in ("a", "b"):
        raise BadRow("unknown_choice", f"preferred: found {shown(preferred)}, expected 'a' or 'b'")
    other = "b" if preferred == "a" else "a"
    left = rest(
        raw,
        "prompt",
        "system",
        "response_a",
        "response_b",
        "score_a",
        "score_b",
        "attributes_a",
        "attributes_b",
        "confidence",
        "annotator",
    )
    for role, side in (("chosen", preferred), ("rejected", other)):
        if f"attributes_{side}" in raw:
            left[f"attributes_{role}"] = raw[f"attributes_{side}"]
    return {
        "prompt": with_system(optional_text(raw, "system"), [user(text(raw, "prompt"))]),
        "chosen": [assistant(text(raw, f"response_{preferred}"))],
        "rejected": [assistant(text(raw, f"response_{other}"))],
        "score_chosen": number(raw, f"score_{preferred}"),
        "score_rejected": number(raw, f"score_{other}"),
        "confidence": number(raw, "confidence"),
        "annotator": name(raw, "annotator"),
        "metadata": left,
    }


def _matches(raw: dict[str, Any]) -> bool:
    return all(key in raw for key in ("prompt", "response_a", "response_b", "preferred"))


FORMAT = Format(
    name="tinyworld",
    row_type="pair",
    convert=tinyworld,
    matches=_matches,
    expects="prompt, response_a, response_b: text; preferred: 'a' or 'b'",
)
