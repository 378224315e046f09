"""The input cut into units of work, each with one output file: what makes a pass resumable.

    rows/part-00000.parquet  rows 0 … 4999   ─►  unit-00000000 … unit-00000019
    rows/part-00001.parquet  rows 0 … 1234   ─►  unit-00000020 …

The cut depends on the input files and the unit size alone. A unit's file is written atomically,
holds one output row for each of its input rows (a status instead of a dropped row), and is named
after the unit: it is there, whole, or the unit is done again. Nothing else is remembered.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rayonale import storage

PLAN = "plan.json"


@dataclass(frozen=True)
class Unit:
    """Rows `start` … `start + count` of one row group of one file."""

    number: int
    file: str
    row_group: int
    start: int
    count: int

    @property
    def name(self) -> str:
        """Name of its output file."""
        return f"unit-{self.number:08d}.parquet"


def plan(rows: str, unit_rows: int) -> list[Unit]:
    """Cut a folder of Parquet rows into units of at most `unit_rows` rows (metadata is read)."""
    units: list[Unit] = []
    for file in storage.parquet_files(rows):
        fs, path = storage.filesystem(file)
        with fs.open(path, "rb") as handle:
            metadata = pq.ParquetFile(handle).metadata
        for group in range(metadata.num_row_groups):
            count = metadata.row_group(group).num_rows
            for start in range(0, count, unit_rows):
                size = min(unit_rows, count - start)
                units.append(Unit(len(units), file, group, start, size))
    return units


def pending(units: list[Unit], work: str, identity: dict[str, Any]) -> list[Unit]:
    """Units without an output file in `work`.

    `identity` is what the outputs depend on; when `work` holds those of another identity they
    are removed first.
    """
    record = json.loads(json.dumps({**identity, "units": len(units)}, default=str))
    plan_uri = storage.join(work, PLAN)
    if storage.exists(plan_uri) and storage.read_json(plan_uri) == record:
        done = {file.rsplit("/", 1)[-1] for file in storage.parquet_files(work)}
        return [unit for unit in units if unit.name not in done]
    storage.remove(work)
    storage.write_json(plan_uri, record)
    return units


def read(unit: Unit) -> list[dict[str, Any]]:
    """The unit's input rows."""
    return _row_group(unit.file, unit.row_group).slice(unit.start, unit.count).to_pylist()


@lru_cache(maxsize=2)
def _row_group(file: str, group: int) -> pa.Table:
    fs, path = storage.filesystem(file)
    with fs.open(path, "rb") as handle:
        return pq.ParquetFile(handle).read_row_group(group)


def schema_of(file: str) -> pa.Schema:
    """Columns of one Parquet file."""
    fs, path = storage.filesystem(file)
    arrow = pafs.PyFileSystem(pafs.FSSpecHandler(fs))
    return pads.dataset([path], filesystem=arrow).schema
