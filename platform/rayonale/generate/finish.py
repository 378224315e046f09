"""The end of a pass: the units' files split into rows/ and rejects/."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from rayonale import records, storage
from rayonale.generate.stream import STATUS_COLUMN, Rejection

Row = dict[str, Any]


def split(
    work: str,
    out: str,
    change: Callable[[Row], Row | Rejection] | None = None,
    without: tuple[str, ...] = (),
) -> tuple[int, dict[str, dict[str, int]]]:
    """Write `<out>/rows` and `<out>/rejects` from the units in `work`, in the input's order.

    Doing it again after a kill gives the same files.

    Args:
        change: applied to each row that goes on; it may change the row or reject it.
        without: columns that `change` takes away.

    Returns:
        The number of rows, and rejects by kind and reason.
    """
    schema = storage.schema(work)
    for column in (STATUS_COLUMN, *without):
        schema = schema.remove(schema.get_field_index(column))
    counts: dict[str, dict[str, int]] = {}
    for folder in (storage.ROWS, storage.REJECTS):
        storage.remove(storage.join(out, folder))

    def rejected() -> Iterator[Row]:
        """Rows go on to `rows` as they come; what is yielded are the rejects."""
        for row in finished(work):
            status = row.pop(STATUS_COLUMN)
            if status is None:
                kept = change(dict(row)) if change else row
                if not isinstance(kept, Rejection):
                    rows.write(kept)
                    continue
                status = kept.status()
            reasons = counts.setdefault(status["kind"], {})
            reasons[status["reason"]] = reasons.get(status["reason"], 0) + 1
            yield reject(row, status)

    with storage.ParquetWriter(storage.join(out, storage.ROWS), schema) as rows:
        storage.write_rows(storage.join(out, storage.REJECTS), rejected(), records.REJECT)
    if rows.rows == 0:  # an empty folder could not be told from a missing one
        storage.write_rows(storage.join(out, storage.ROWS), [], schema)
    total = storage.count(work)
    lost = total - rows.rows - sum(n for reasons in counts.values() for n in reasons.values())
    assert lost == 0, f"{work}: {lost} of {total} rows are neither in rows nor in rejects"
    return rows.rows, counts


def finished(work: str, columns: list[str] | None = None) -> Iterator[Row]:
    """Rows of the units' files in the input's order, with their status."""
    yield from storage.read_rows(work, columns)


def reject(row: Row, status: dict[str, str]) -> Row:
    """A `records.REJECT` row."""
    return {
        "id": row.get("id"),
        "kind": status["kind"],
        "reason": status["reason"],
        "detail": status["detail"],
        "source": row.get("source"),
        "line": row.get("line"),
        "row": json.dumps(row, ensure_ascii=False, default=str),
    }
