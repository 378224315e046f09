"""Token shards: rows tokenised ahead into Arrow files that workers map into memory.

    rows/*.parquet ─ one task a chunk ─────► tokens/<split>-00000.arrow …  (and rejects)
                                             workers: memory-mapped, read by row number

No worker holds the data set, and no tokeniser runs while the model computes. A shard is written
in one piece, so a run that is started again takes the finished ones as they are.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from rayonale import storage
from rayonale.records import REJECT
from rayonale.train.examples import Encoding, encode
from rayonale.train.trees import PROMPT, SHARED, may_share, trees_of

log = logging.getLogger("rayonale")

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Chunk:
    """Rows of a Parquet file's row group: the unit of work and of resumption."""

    number: int
    uri: str
    row_group: int
    start: int
    rows: int

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows, all columns unless told."""
        fs, path = storage.filesystem(self.uri)
        with fs.open(path, "rb") as file:
            found = pq.ParquetFile(file)
            group = found.read_row_group(self.row_group, columns=list(columns) if columns else None)
            return group.slice(self.start, self.rows)


def chunks_of(rows: str, most: int = 20_000) -> list[Chunk]:
    """All rows of a folder in order, in chunks of at most `most`."""
    found: list[Chunk] = []
    for uri in storage.parquet_files(rows):
        fs, path = storage.filesystem(uri)
        with fs.open(path, "rb") as file:
            metadata = pq.ParquetFile(file).metadata
        for group in range(metadata.num_row_groups):
            size = metadata.row_group(group).num_rows
            for start in range(0, size, most):
                found.append(Chunk(len(found), uri, group, start, min(most, size - start)))
    return found


def id_rank(ids: Sequence[str], seed: int | None = None) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Stable hash of ids, [rows] uint64: rows with the smallest come first under a limit.

    Args:
        seed: of another order.
    """
    salt = "" if seed is None else f"{seed}:"
    return np.array([xxhash.xxh3_64_intdigest(f"{salt}{i}".encode()) for i in ids], dtype=np.uint64)


def limit_rank(
    rows: str, split: str, limit: int | float | None, seed: int | None = None
) -> int | None:
    """Largest rank that a limit lets through; None lets all through.

    A smaller limit takes a subset of what a larger one (of the same seed) takes.

    Raises:
        ValueError: the split has no rows, or fewer than the limit asks for.
    """
    parts = [
        id_rank(batch.column("id").filter(_is(batch.column("split"), split)).to_pylist(), seed)
        for batch in storage.dataset(rows).to_batches(columns=["id", "split"])
    ]
    ranks = np.sort(np.concatenate(parts)) if parts else np.empty(0, np.uint64)
    if not len(ranks):
        raise ValueError(f"{rows}: no rows of split {split!r}")
    if limit is None:
        return None
    wanted = max(1, round(limit * len(ranks))) if isinstance(limit, float) else limit
    if wanted > len(ranks):
        raise ValueError(f"{rows}: limit {wanted} but split {split!r} has {len(ranks)} rows")
    return int(ranks[wanted - 1])


def _is(column: Any, value: str) -> Any:
    import pyarrow.compute as pc

    return pc.equal(column, value)


def tokenise_chunk(
    chunk: Chunk,
    split: str,
    highest: int | None,
    encoding: Encoding,
    out: str,
    *,
    seed: int | None = None,
) -> str:
    """Tokenise one chunk's rows of a split; writes `<out>/<split>-<number>.arrow` and rejects.

    Returns the shard's URI; does nothing when it is there.
    """
    name = f"{split}-{chunk.number:05d}"
    shard = storage.join(out, f"{name}.arrow")
    if storage.exists(shard):
        return shard
    tokenizer = encoding.tokenizer()
    kept, rejects = [], []
    for row in chunk.read([*dict.fromkeys([*encoding.columns(), "split"])]).to_pylist():
        if row["split"] != split:
            continue
        if highest is not None and id_rank([row["id"]], seed)[0] > highest:
            continue
        example, left_out = encode(tokenizer, row, encoding)
        if example is not None:
            kept.append(example)
        else:
            rejects.append(left_out)
    rejected = pa.Table.from_pylist(rejects, schema=REJECT)
    storage.write_table(storage.join(out, "rejects", f"{name}.parquet"), rejected)
    storage.write_bytes(shard, _ipc(pa.Table.from_pylist(kept, schema=encoding.schema())))
    return shard


def _ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def tokenise(
    rows: str,
    split: str,
    limit: int | float | None,
    encoding: Encoding,
    out: str,
    *,
    seed: int | None = None,
) -> list[str]:
    """Shards of a split, in order; spread over the cluster when there are several chunks.

    Args:
        limit: rows of the split to take, `seed`: of the order in which they are taken.
    """
    highest = limit_rank(rows, split, limit, seed)
    chunks = chunks_of(rows)
    if len(chunks) == 1:  # a worker's start would take longer than the work
        return [tokenise_chunk(chunks[0], split, highest, encoding, out, seed=seed)]
    import ray

    task = ray.remote(tokenise_chunk).options(max_retries=3)
    return list(ray.get([task.remote(c, split, highest, encoding, out, seed=seed) for c in chunks]))


def rejects_of(out: str) -> Iterator[dict[str, Any]]:
    """Rows that tokenising left out."""
    folder = storage.join(out, "rejects")
    return storage.read_rows(folder) if storage.parquet_files(folder) else iter(())


class TokenRows:
    """Tokenised rows by number, memory-mapped (shards of another file system are copied first)."""

    def __init__(
        self, shards: Sequence[str], sequences: Sequence[str], whole: bool = False
    ) -> None:
        self.sequences = tuple(sequences)
        self.whole = whole  # responses go into the model with their last token
        tables = [pa.ipc.open_file(pa.memory_map(str(_local(uri)))).read_all() for uri in shards]
        self._table = pa.concat_tables(tables)
        # By column: tokens of each row, and how many texts they are (a list has several).
        self.lengths: dict[str, Ints] = {}
        self._texts: dict[str, Ints] = {}
        for column in self._table.column_names:
            if column.endswith("_tokens"):
                name = column.removesuffix("_tokens")
                self.lengths[name], self._texts[name] = _lengths(self._table[column])

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def take(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Rows by number."""
        return [self._table.slice(row, 1).to_pylist()[0] for row in rows]

    def column(self, name: str) -> list[Any]:
        """A whole column (ids, fingerprints)."""
        return list(self._table[name].to_pylist())

    def costs(self, rows: Sequence[int], sequences: Sequence[str] | None = None) -> list[int]:
        """Tokens that each row puts into the model (see `trees.tree_length`)."""
        picked = list(rows)
        total = np.zeros(len(picked), np.int64)
        wanted = sequences or self.sequences
        if may_share(wanted) and SHARED in self.lengths:  # older shards shared nothing
            # Without sharing these would go in twice, but for chosen's last token.
            shared = self.lengths[SHARED][picked]
            total -= np.where(shared > 0, shared - (not self.whole), 0)
        for prompt, names in trees_of(wanted).items():
            total += self.lengths[prompt][picked]
            for name in names:
                total += self.lengths[name][picked]
                total -= 0 if self.whole else self._texts[name][picked]
        return [int(cost) for cost in total]

    def counts(
        self, rows: Sequence[int], sequences: Sequence[str] | None = None
    ) -> dict[str, float]:
        """What terms are divided by: `pairs`, and predicted tokens of each sequence."""
        picked = list(rows)
        found = {"pairs": float(len(picked))}
        for name in sequences or self.sequences:
            tokens = self.lengths[name][picked].sum()
            found[name] = float(tokens - (len(picked) if name == PROMPT else 0))
        return found


def _lengths(column: pa.ChunkedArray) -> tuple[Ints, Ints]:
    """Tokens of each row and number of its texts, from `<name>_tokens`."""
    if not pa.types.is_list(column.type):
        tokens = column.to_numpy().astype(np.int64)
        return tokens, np.ones_like(tokens)
    rows = [(sum(row), len(row)) for row in column.to_pylist()]
    both = np.array(rows, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _local(uri: str) -> Path:
    if "://" not in uri or uri.startswith("file://"):
        return Path(uri.removeprefix("file://"))
    fs, path = storage.filesystem(uri)
    copy = Path(tempfile.mkdtemp(prefix="rayonale-shards-")) / Path(path).name
    fs.get(path, str(copy))
    return copy
