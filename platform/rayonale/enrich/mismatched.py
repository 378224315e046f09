"""Mismatched responses: what KTO estimates its KL term with.

    row   prompt            response     mismatched
    0     Name two birds.   robin, wren  oak           ← of row 1
    1     Name a tree.      oak          red           ← of row 2
    2     Name a colour.    red          robin, wren   ← of row 0

A row's mismatched response is that of the next row (in a circle) that has another prompt and is
of the same split. It is fixed before training, so that its log-probability under the reference
can be stored, and a batch's estimate depends on the batch's rows alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MISMATCHED = "mismatched"


def with_mismatched(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the column `mismatched`; None where no other row of the split has another prompt.

    Looks at no more rows than share a prompt, one after the other.
    """
    circles: dict[Any, list[int]] = {}
    for place, row in enumerate(rows):
        circles.setdefault(row.get("split"), []).append(place)
    found: list[dict[str, Any]] = [{**row, MISMATCHED: None} for row in rows]
    for circle in circles.values():
        for step, place in enumerate(circle):
            others = (circle[(step + away) % len(circle)] for away in range(1, len(circle)))
            other = next((o for o in others if rows[o]["prompt"] != rows[place]["prompt"]), None)
            if other is not None:
                found[place][MISMATCHED] = rows[other]["response"]
    return found
