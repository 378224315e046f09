"""Rows that leave the flow after ingestion: the reason, and the row as a reject."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rayonale.records import Reject, RejectKind


class LeftOut(ValueError):
    """A row that cannot be used; `reason` is the reject's code."""

    def __init__(self, kind: RejectKind, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.kind, self.reason = kind, reason


def reject(row: Mapping[str, Any], kind: RejectKind, reason: str, detail: str) -> Reject:
    """The row as a reject."""
    return Reject(
        id=row["id"],
        kind=kind.value,
        reason=reason,
        detail=detail,
        source=row.get("source"),
        line=row.get("line"),
        row=json.dumps(dict(row), ensure_ascii=False, default=str),
    )


def counts(rejects: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Rejects by kind and reason."""
    found: dict[str, dict[str, int]] = {}
    for (kind, reason), number in Counter((r["kind"], r["reason"]) for r in rejects).items():
        found.setdefault(kind, {})[reason] = number
    return found
