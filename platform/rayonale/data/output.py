"""Writing a stage's rows and rejects from converted blocks, a file at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rayonale import storage
from rayonale.data import ids
from rayonale.data.assemble import KEPT, VERDICTS, Decision
from rayonale.data.blocks import Converted, read_file
from rayonale.data.conversion import KEY
from rayonale.records import REJECT, ROW_TYPES

_FILE_ROWS = 5_000
_FILE_BYTES = 64 << 20


def write_rows(converted: Converted, decision: Decision, out: str) -> int:
    """Write the stage's rows; returns their number."""
    writer = _Rechunker(storage.join(out, storage.ROWS))
    schema = ROW_TYPES[converted.row_type]
    if decision.order is None:
        for table in _kept(converted, decision, None):
            writer.add(table)
    else:
        sizes = converted.source_sizes()
        streams = [_Stream(_kept(converted, decision, s)) for s in range(len(sizes))]
        for start in range(0, len(decision.order), _FILE_ROWS):
            writer.add(_woven(decision.order[start : start + _FILE_ROWS], streams))
    return writer.finish(schema)


def write_rejects(converted: Converted, decision: Decision | None, out: str) -> int:
    """Write all rejects: those of the conversion, then those of the decision."""
    writer = _Rechunker(storage.join(out, storage.REJECTS))
    for uri in converted.reject_files():
        writer.add(read_file(uri))
    start = 0
    for uri, report_rows in _with_rows(converted) if decision is not None else ():
        assert decision is not None
        verdict = decision.verdict[start : start + report_rows]
        start += report_rows
        if (verdict != KEPT).any():
            places = np.flatnonzero(verdict != KEPT)
            rows = _visible(read_file(uri), converted.row_type).take(pa.array(places)).to_pylist()
            rejects = [_reject(row, int(v)) for row, v in zip(rows, verdict[places], strict=True)]
            writer.add(pa.Table.from_pylist(rejects, schema=REJECT))
    return writer.finish(REJECT)


def _reject(row: dict[str, Any], verdict: int) -> dict[str, Any]:
    kind, reason, told = VERDICTS[verdict]
    return {
        "id": None,
        "kind": kind,
        "reason": reason,
        "detail": f"{row['source']}:{row['line']}: {told}",
        "source": row["source"],
        "line": row["line"],
        "row": json.dumps(row, ensure_ascii=False),
    }


def _with_rows(converted: Converted) -> Iterator[tuple[str, int]]:
    for uri in converted.files():
        fs, path = storage.filesystem(uri)
        with fs.open(path, "rb") as file:
            rows = pq.ParquetFile(file).metadata.num_rows
        yield uri, rows


def _visible(table: pa.Table, row_type: str) -> pa.Table:
    return table.select([n for n in ROW_TYPES[row_type].names if n in table.column_names])


def _kept(converted: Converted, decision: Decision, source: int | None) -> Iterator[pa.Table]:
    """Tables of finished rows (ids and occurrences added), in source order."""
    start = 0 if source is None else sum(converted.source_sizes()[:source])
    schema = ROW_TYPES[converted.row_type]
    for uri in converted.files(source):
        table = read_file(uri)
        stop = start + len(table)
        occurrence = decision.occurrence[start:stop]
        keys = table.column(KEY).to_pylist()
        named = [ids.row_id(k, int(n)) for k, n in zip(keys, occurrence, strict=True)]
        table = table.append_column("id", pa.array(named))
        table = table.append_column("occurrence", pa.array(occurrence))
        table = table.select(schema.names).cast(schema)
        stays = decision.verdict[start:stop] == KEPT
        yield table if stays.all() else table.filter(pa.array(stays))
        start = stop


class _Stream:
    """Takes rows off the front of a stream of tables."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._held: pa.Table | None = None

    def take(self, rows: int) -> list[pa.Table]:
        taken = []
        while rows > 0:
            if self._held is None or len(self._held) == 0:
                self._held = next(self._tables)
            part = self._held.slice(0, rows)
            self._held = self._held.slice(len(part))
            rows -= len(part)
            taken.append(part)
        return taken


def _woven(order: NDArray[np.int64], streams: list[_Stream]) -> pa.Table:
    """The next rows of the streams in the order of source numbers."""
    parts = [
        table
        for number, stream in enumerate(streams)
        for table in stream.take(int((order == number).sum()))
    ]
    by_source = np.argsort(order, kind="stable")  # places in the output, source after source
    return pa.concat_tables(parts).take(pa.array(np.argsort(by_source)))


class _Rechunker:
    """Writes tables as numbered files of about `_FILE_ROWS` rows (fewer when they are big)."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._held: list[pa.Table] = []
        self._files = self._rows = 0
        storage.remove(folder)  # of an attempt that was killed

    def add(self, table: pa.Table) -> None:
        while len(table):
            room = _FILE_ROWS - sum(len(held) for held in self._held)
            self._held.append(table.slice(0, room))
            table = table.slice(room)
            full = sum(len(held) for held in self._held) >= _FILE_ROWS
            if full or sum(held.nbytes for held in self._held) >= _FILE_BYTES:
                self._flush()

    def _flush(self) -> None:
        if self._held:
            table = pa.concat_tables(self._held)
            uri = storage.join(self._folder, f"part-{self._files:05d}.parquet")
            storage.write_table(uri, table)
            self._files += 1
            self._rows += len(table)
            self._held = []

    def finish(self, schema: pa.Schema) -> int:
        """Write what is left (an empty file when there is nothing at all); rows written."""
        self._flush()
        if self._files == 0:
            storage.write_table(
                storage.join(self._folder, "part-00000.parquet"), schema.empty_table()
            )
        return self._rows
