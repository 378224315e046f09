"""What estimates are made of: rows that flow from stage to stage, and what a stage takes.

Flow      {"train": 2052, "test": 540} rows, a sample of them, tokens where there is no sample
Estimate  rows, tokens, seconds by what they go to, bytes, and on what the numbers rest
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rayonale import storage
from rayonale.stages import StageOutput

SAMPLE_ROWS = 512  # rows that stand for all of a stage's
BYTES_PER_TOKEN = 2.0  # of text in Parquet, compressed; assumed where there is no sample

Row = dict[str, Any]


@dataclass(frozen=True)
class Flow:
    """What a stage leaves behind for those that read it.

    Attributes:
        rows: split → number of rows (raw records have the one split "").
        sample: rows like those to come, at most `SAMPLE_ROWS`; empty where none can be had.
        tokens: column → tokens of one text on average, where the sample does not hold that text.
        texts: column → texts in a row, where it holds several (rationales, responses).
        distinct: share of the rows whose prompt no earlier row has.
        bytes_per_row: on disk.
        explained: splits whose rows have rationales; None where it is not known of which.
        template: prompt template that its rationales were generated with.
        model: folder or name of the base model whose architecture a trained model has.
        known: whether anything is known of it.
    """

    rows: Mapping[str, float] = field(default_factory=dict)
    sample: Sequence[Row] = ()
    tokens: Mapping[str, float] = field(default_factory=dict)
    texts: Mapping[str, float] = field(default_factory=dict)
    distinct: float = 1.0
    bytes_per_row: float = 0.0
    explained: tuple[str, ...] | None = None
    template: str | None = None
    model: str | None = None
    known: bool = True

    @property
    def total(self) -> float:
        """Rows of all splits."""
        return float(sum(self.rows.values()))

    def of(self, splits: Iterable[str]) -> float:
        """Rows of some splits."""
        return float(sum(self.rows.get(split, 0.0) for split in splits))

    def scaled(self, share: float, splits: Iterable[str] | None = None) -> Flow:
        """With a share of the rows (of some splits), where a filter drops the others."""
        chosen = set(self.rows) if splits is None else set(splits)
        rows = {s: n * share if s in chosen else n for s, n in self.rows.items()}
        return replace(self, rows=rows)


@dataclass(frozen=True)
class Estimate:
    """What a stage is expected to take.

    Attributes:
        rows_in, rows_out: rows read, and left in `rows/`.
        tokens: `generated`, `prompt` (read by engines), `trained` (forward and backward, prompts
            among them), `scored` (forward only).
        parts: what the seconds go to → seconds.
        bytes: kept on disk; peak_bytes: those and what lies in `work/` while it runs.
        gpus: held while it runs.
        money: what endpoints charge.
        basis: on what the numbers rest, one short sentence each.
        missing: why there is no time, where there is none.
        flow: what it leaves behind.
    """

    rows_in: float = 0.0
    rows_out: float = 0.0
    tokens: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, float] = field(default_factory=dict)
    bytes: float | None = None
    peak_bytes: float | None = None
    gpus: float = 0.0
    money: float = 0.0
    basis: tuple[str, ...] = ()
    missing: str = ""
    flow: Flow = field(default_factory=Flow)

    @property
    def seconds(self) -> float | None:
        """All parts; None where the time is not known."""
        return None if self.missing else float(sum(self.parts.values()))

    def as_json(self) -> dict[str, Any]:
        """For the file beside the runs; without the flow."""
        found = asdict(replace(self, flow=Flow()))
        del found["flow"]
        return {**found, "basis": list(self.basis), "seconds": self.seconds}


def not_estimated(why: str, flow: Flow | None = None, **known: Any) -> Estimate:
    """An estimate without a time; without a flow, what it leaves is not known either."""
    return Estimate(missing=why, flow=flow or Flow(known=False), **known)


def of_output(output: StageOutput, size: int = SAMPLE_ROWS) -> Flow:
    """Of a finished stage, or a folder of rows: what is there."""
    if not storage.parquet_files(output.rows):
        return Flow()
    present = storage.schema(output.rows).names
    rows: dict[str, float] = {}
    if "split" in present:
        for batch in storage.dataset(output.rows).to_batches(columns=["split"]):
            for split in batch.column("split").to_pylist():
                rows[split] = rows.get(split, 0.0) + 1
    else:
        rows[""] = float(storage.count(output.rows))
    total = sum(rows.values())
    sample = list(islice(storage.read_rows(output.rows, batch_size=size), size))
    explained = {row.get("split", "") for row in sample if row.get("rationales")}
    return Flow(
        rows=rows,
        sample=sample,
        explained=tuple(sorted(explained)) if "rationales" in present else None,
        bytes_per_row=size_of(output.rows) / total if total else 0.0,
    )


def size_of(folder: str) -> float:
    """Bytes of all files in a folder."""
    fs, path = storage.filesystem(folder)
    return float(sum(fs.sizes(fs.find(path)))) if fs.exists(path) else 0.0


def packed_bytes(rows: Sequence[Row]) -> float:
    """Bytes of one row in Parquet, as these rows compress; 0 without rows."""
    if not rows:
        return 0.0
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink, compression="zstd")
    return float(sink.getvalue().size) / len(rows)


def distinct_share(rows: Sequence[Row]) -> float:
    """Share of rows whose prompt no earlier one has."""
    if not rows:
        return 1.0
    return len({str(row["prompt"]) for row in rows}) / len(rows)
