"""Mismatched responses: what KTO estimates its KL term with.

    row   prompt            response     mismatched
    0     Name two birds.   robin, wren  oak           ← of row 1
    1     Name a tree.      oak          red           ← of row 2
    2     Name a colour.    red          robin, wren   ← of row 0

A row's mismatched response is that of the next row (in a circle) that has another prompt, of the
same split where there is one. It is fixed before training, so that its log-probability under the
reference can be stored, and a batch's estimate depends on the batch's rows alone. No gradient
passes through it, so one of another split teaches nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

MISMATCHED = "mismatched"


def with_mismatched(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the column `mismatched`; None where all rows have one prompt."""
    found = []
    for place, row in enumerate(rows):
        after = chain(range(place + 1, len(rows)), range(place))
        others = (rows[o] for o in after if rows[o]["prompt"] != row["prompt"])
        other = _first_of_split(others, row.get("split"))
        found.append({**row, MISMATCHED: other and other["response"]})
    return found


def _first_of_split(rows: Iterable[Mapping[str, Any]], split: Any) -> Mapping[str, Any] | None:
    """The first row of a split; where there is none, the first."""
    first = None
    for row in rows:
        if row.get("split") == split:
            return row
        first = first or row
    return first
