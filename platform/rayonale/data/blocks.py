"""Converting raw records to rows, a block at a time: parallel, resumable, in bounded memory.

A block is a run of parts of one source (about 32 MiB). Its rows and rejects are written to the
stage's `work/` folder, `done.json` last; a block that has one is not converted again. Rows
carry what only the whole can decide (occurrences, duplicates, shares) as keys in hidden columns.

    part(s) ─ read ─► record ─ format ─► row ─ checks ─► work/blocks/000007/rows-00000.parquet
                        └───────── BadRow ──────┴──────► work/blocks/000007/rejects-00000.parquet
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rayonale import storage
from rayonale.data import formats, ids, reading, sources, splits
from rayonale.data.conversion import (
    KEY,
    LATER,
    OWN_KEY,
    PROMPT_KEY,
    Conversion,
    Converter,
    as_reject,
)
from rayonale.data.fields import BadRow
from rayonale.records import REJECT, ROW_TYPES

_CHUNK_ROWS = 5_000
_CHUNK_CHARS = 32 << 20


@dataclass(frozen=True)
class Block:
    """A unit of work: parts of one source; `limit` stops it after that many records."""

    folder: str
    parts: list[sources.Part]
    conversion: Conversion
    limit: int | None = None

    @property
    def bytes(self) -> int:
        """Size of what it reads."""
        return sum(part.bytes for part in self.parts)


@dataclass
class BlockReport:
    """What `done.json` says of a block.

    Attributes:
        records: read; rows: converted; files, reject_files: how many of each were written.
        rejects: `kind/reason` → count; examples: `kind/reason` → details of the first few.
    """

    records: int = 0
    rows: int = 0
    files: int = 0
    reject_files: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)


def plan(
    parts: list[sources.Part], conversion: Conversion, limit: int | None, work: str, start: int
) -> list[Block]:
    """Blocks of a source. A source with a limit is one block: it is read in order, until then."""
    groups: list[list[sources.Part]] = []
    size = sources.PART_BYTES
    for part in parts:
        if groups and (limit is not None or size + part.bytes <= sources.PART_BYTES):
            groups[-1].append(part)
            size += part.bytes
        else:
            groups.append([part])
            size = part.bytes
    return [
        Block(storage.join(work, "blocks", f"{start + i:06d}"), group, conversion, limit)
        for i, group in enumerate(groups)
    ]


def finished(block: Block) -> BlockReport | None:
    """The report of a block that was converted before."""
    uri = storage.join(block.folder, "done.json")
    if not storage.exists(uri):
        return None
    report = BlockReport(**storage.read_json(uri))
    report.rejects = Counter(report.rejects)
    return report


def convert(block: Block) -> BlockReport:
    """Convert a block, or return its report when it is done already."""
    if (report := finished(block)) is not None:
        return report
    storage.remove(block.folder)
    # Rows are many small objects without cycles: the collector's passes over them find nothing
    # and take as long as the conversion itself.
    collecting = gc.isenabled()
    gc.disable()
    try:
        report = _convert(block)
    finally:
        if collecting:
            gc.enable()
    storage.write_json(storage.join(block.folder, "done.json"), vars(report))
    return report


def _convert(block: Block) -> BlockReport:
    report = BlockReport()
    layout = formats.get(block.conversion.format)
    converter = Converter(block.conversion, layout)
    chunk = _Chunk(block.folder, layout.row_type, report)
    for part, record in _records(block):
        report.records += 1
        try:
            if record.problem is not None:
                raise record.problem
            row, size = converter.row(record.value, part.uri, record.line)
        except BadRow as bad:
            chunk.reject(as_reject(bad, part.uri, record), bad)
        else:
            chunk.add(row, size)
    chunk.flush()
    return report


def _records(block: Block) -> Iterator[tuple[sources.Part, reading.Record]]:
    left = block.limit
    conversion = block.conversion
    for part in block.parts:
        for record in reading.read(part, conversion.hub, conversion.max_line_bytes):
            if left is not None:
                if left == 0:
                    return
                left -= 1
            yield part, record


class _Chunk:
    """Rows and rejects of a block that are not written yet."""

    def __init__(self, folder: str, row_type: str, report: BlockReport) -> None:
        self._folder, self._report = folder, report
        self._schema = work_schema(row_type)
        self._rows: list[dict[str, Any]] = []
        self._rejects: list[dict[str, Any]] = []
        self._size = 0

    def add(self, row: dict[str, Any], size: int) -> None:
        self._rows.append(row)
        self._report.rows += 1
        self._grow(size)

    def reject(self, reject: dict[str, Any], bad: BadRow) -> None:
        self._rejects.append(reject)
        code = f"{bad.kind}/{bad.reason}"
        self._report.rejects[code] += 1
        examples = self._report.examples.setdefault(code, [])
        if len(examples) < 3:
            examples.append(reject["detail"])
        self._grow(len(reject["row"]))

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > _CHUNK_CHARS or len(self._rows) + len(self._rejects) >= _CHUNK_ROWS:
            self.flush()

    def flush(self) -> None:
        report = self._report
        if self._rows:
            uri = storage.join(self._folder, f"rows-{report.files:05d}.parquet")
            storage.write_table(uri, _table(self._rows, self._schema))
            report.files += 1
        if self._rejects:
            uri = storage.join(self._folder, f"rejects-{report.reject_files:05d}.parquet")
            storage.write_table(uri, pa.Table.from_pylist(self._rejects, schema=REJECT))
            report.reject_files += 1
        self._rows, self._rejects, self._size = [], [], 0


def work_schema(row_type: str) -> pa.Schema:
    """Columns of a block's rows: those of the row type but what comes later, and the keys."""
    kept = [column for column in ROW_TYPES[row_type] if column.name not in LATER]
    key = pa.binary(ids.KEY_BYTES)
    hidden = [pa.field(name, key) for name in (KEY, PROMPT_KEY, OWN_KEY)]
    return pa.schema([*kept, *hidden])


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    columns = [
        pa.array(list(map(itemgetter(column.name), rows)), type=column.type) for column in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


@dataclass(frozen=True)
class Converted:
    """All blocks of a stage, converted, in source order."""

    blocks: list[Block]
    reports: list[BlockReport]
    row_type: str

    @property
    def total(self) -> int:
        """Number of converted rows."""
        return sum(report.rows for report in self.reports)

    def files(self, source: int | None = None) -> Iterator[str]:
        """Files of rows, of one source or of all."""
        for block, report in zip(self.blocks, self.reports, strict=True):
            if source is None or block.conversion.number == source:
                for number in range(report.files):
                    yield storage.join(block.folder, f"rows-{number:05d}.parquet")

    def reject_files(self) -> Iterator[str]:
        """Files of rejects."""
        for block, report in zip(self.blocks, self.reports, strict=True):
            for number in range(report.reject_files):
                yield storage.join(block.folder, f"rejects-{number:05d}.parquet")

    def keys(self, column: str) -> ids.Keys:
        """A fresh pass over a key column, [n, 2] at a time."""

        def read() -> Iterator[NDArray[np.uint64]]:
            for uri in self.files():
                column_keys = read_file(uri, [column]).column(0).to_pylist()
                yield ids.as_words([key or bytes(ids.KEY_BYTES) for key in column_keys])

        return read

    def split_numbers(self) -> NDArray[np.uint8]:
        """Number of each row's split, [N]."""
        names = pa.array(splits.NAMES)
        found = [
            np.asarray(pc.index_in(read_file(uri, ["split"]).column(0), names))
            for uri in self.files()
        ]
        return np.concatenate(found or [np.empty(0)]).astype(np.uint8)

    def source_sizes(self) -> list[int]:
        """Rows of each source, in order."""
        sizes: Counter[int] = Counter()
        for block, report in zip(self.blocks, self.reports, strict=True):
            sizes[block.conversion.number] += report.rows
        return [sizes[number] for number in range(max(sizes, default=-1) + 1)]


def read_file(uri: str, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file as a table."""
    fs, path = storage.filesystem(uri)
    with fs.open(path, "rb") as file:
        return pq.ParquetFile(file).read(columns=columns)
