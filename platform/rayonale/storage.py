"""Where stages keep rows: a folder of Parquet files at a local path or any fsspec URI.

    <stage output>/
      rows/part-00000.parquet …      the rows that go on
      rejects/part-00000.parquet …   the rows that left, with reasons (schema REJECT)
      model/                         a Hugging Face folder (stages that train)
      work/                          partial work of an unfinished stage; removed when done
      manifest.json                  written last: its presence means that the stage is done

Every file is written under a temporary name and moved into place, so a reader never sees half
a file, whatever is killed when.
"""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

ROWS = "rows"
REJECTS = "rejects"
MODEL = "model"
WORK = "work"
MANIFEST = "manifest.json"


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec file system of a URI (or local path) and the path in it."""
    fs, path = fsspec.core.url_to_fs(uri)
    return fs, path


def join(uri: str, *parts: str) -> str:
    """`uri` with `parts` appended, whatever its scheme."""
    scheme, mark, path = uri.rpartition("://")  # of "memory://" the slashes must stay
    root = path.rstrip("/")
    pieces = [root] if root or not mark else []
    return scheme + mark + "/".join([*pieces, *(part.strip("/") for part in parts)])


def parent(uri: str, levels: int = 1) -> str:
    """The folder so many levels above a path or URI."""
    return uri.rstrip("/").rsplit("/", levels)[0]


def absolute(uri: str) -> str:
    """A local path from the root on, for processes that work in other folders; URIs as they are."""
    return uri if "://" in uri else str(Path(uri).expanduser().resolve())


def exists(uri: str) -> bool:
    """Whether a file or folder is there."""
    fs, path = filesystem(uri)
    return bool(fs.exists(path))


def remove(uri: str) -> None:
    """Remove a file or a whole folder; nothing happens when it is not there."""
    fs, path = filesystem(uri)
    if fs.exists(path):
        fs.rm(path, recursive=True)


@contextmanager
def locked(folder: str) -> Iterator[None]:
    """Keep other processes of this machine (or of a shared disk with locks) out of a folder.

    The lock is the operating system's, so it ends with the process that holds it, however that
    ends. Object stores have no locks; there nothing is kept out.

    Raises:
        ValueError: another process holds it.
    """
    if "://" in folder:
        yield
        return
    path = Path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.parent / f".{path.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"{folder}: another process is writing it; wait for it or stop it, then run the same "
            "command again"
        ) from None
    try:
        yield
    finally:
        lock.release()


def write_bytes(uri: str, data: bytes) -> None:
    """Write a whole file atomically (temporary name, then move)."""
    fs, path = filesystem(uri)
    parent = path.rsplit("/", 1)[0]
    fs.makedirs(parent, exist_ok=True)
    temporary = f"{parent}/.{uuid.uuid4().hex}.tmp"
    with fs.open(temporary, "wb") as file:
        file.write(data)
        with suppress(OSError, AttributeError):  # remote files have no descriptor
            file.flush()
            os.fsync(file.fileno())  # a name must not outlive its content when the power goes
    fs.mv(temporary, path)


def write_json(uri: str, value: Any) -> None:
    """Write a JSON document atomically; NaN and infinities, which JSON lacks, become null."""
    text = json.dumps(_without_nan(value), indent=2, sort_keys=True, allow_nan=False)
    write_bytes(uri, (text + "\n").encode())


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value


def read_json(uri: str) -> Any:
    """Read a JSON document; ValueError names the file when it is not JSON."""
    fs, path = filesystem(uri)
    with fs.open(path, "rb") as file:
        data = file.read()
    try:
        return json.loads(data)
    except ValueError as error:
        raise ValueError(f"{uri}: not JSON: {error}") from error


def parquet_files(folder: str) -> list[str]:
    """Parquet files of a folder in name order, as URIs that Ray Data and pyarrow open."""
    fs, path = filesystem(folder)
    try:
        listed = fs.ls(
            path.rstrip("/"), detail=False
        )  # glob would read [ and * in the folder's name
    except (FileNotFoundError, NotADirectoryError):
        return []
    names = [(f, f.rstrip("/").rsplit("/", 1)[-1]) for f in listed]
    found = sorted(f for f, n in names if n.endswith(".parquet") and not n.startswith("."))
    return [fs.unstrip_protocol(f) if "://" in folder else f for f in found]


_ROWS_AS_DICTS = 256  # that a writer holds before they become Arrow


class ParquetWriter:
    """Appends rows to a folder as numbered Parquet files of at most `rows_per_file` rows.

    Bounded memory: at most `rows_per_file` rows are held, as Arrow but for the last few. Use as
    a context manager; leaving it on an error discards the unfinished file only.
    """

    def __init__(self, folder: str, schema: pa.Schema, rows_per_file: int = 5_000) -> None:
        self._folder, self._schema, self._rows_per_file = folder, schema, rows_per_file
        self._buffer: list[dict[str, Any]] = []
        self._tables: list[pa.Table] = []  # of the file to come; a fraction of the dicts' size
        self._held = 0  # rows in them
        self._files = 0
        self.rows = 0

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; columns that the schema lacks are refused (they would be lost)."""
        unknown = row.keys() - set(self._schema.names)
        if unknown:
            raise ValueError(f"{self._folder}: columns {sorted(unknown)} not in the schema")
        self._buffer.append(row)
        self.rows += 1
        if self._held + len(self._buffer) >= self._rows_per_file:
            self.flush()
        elif len(self._buffer) >= _ROWS_AS_DICTS:
            self._compact()

    def flush(self) -> None:
        """Write what is buffered as one file."""
        self._compact()
        if self._tables:
            table = pa.concat_tables(self._tables)
            write_table(join(self._folder, f"part-{self._files:05d}.parquet"), table)
            self._files += 1
            self._tables, self._held = [], 0

    def _compact(self) -> None:
        if self._buffer:
            self._tables.append(pa.Table.from_pylist(self._buffer, schema=self._schema))
            self._held += len(self._buffer)
            self._buffer = []

    def __enter__(self) -> ParquetWriter:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is None:
            self.flush()


def write_table(uri: str, table: pa.Table) -> None:
    """Write one Parquet file atomically."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_bytes(uri, sink.getvalue().to_pybytes())


def write_rows(folder: str, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> int:
    """Write rows to a folder; an empty iterable still leaves one (empty) file with the schema."""
    remove(folder)  # files of a killed attempt that this one does not overwrite
    with ParquetWriter(folder, schema) as writer:
        for row in rows:
            writer.write(row)
    if writer.rows == 0:
        write_table(join(folder, "part-00000.parquet"), schema.empty_table())
    return writer.rows


def dataset(folder: str) -> pads.Dataset:
    """The folder as an Arrow data set (lazy).

    It remembers each file's metadata once it was read, so to stream many files use `read_rows`.

    Raises:
        ValueError: the folder holds no Parquet file.
    """
    arrow, paths = _arrow_files(folder)
    factory = pads.FileSystemDatasetFactory(arrow, paths, pads.ParquetFileFormat())
    # Of all files: by the first one alone, columns of later ones would be lost.
    return factory.finish(factory.inspect(promote_options="permissive", fragments=None))


def _arrow_files(folder: str) -> tuple[pafs.FileSystem, list[str]]:
    files = parquet_files(folder)
    if not files:
        raise ValueError(f"{folder}: no Parquet files found")
    fs, _ = filesystem(folder)
    return pafs.PyFileSystem(pafs.FSSpecHandler(fs)), [fs._strip_protocol(f) for f in files]


def schema(folder: str) -> pa.Schema:
    """Columns of a folder's rows."""
    return dataset(folder).schema


def count(folder: str) -> int:
    """Number of rows in a folder."""
    if not parquet_files(folder):
        return 0
    arrow, paths = _arrow_files(folder)
    return sum(pq.read_metadata(path, filesystem=arrow).num_rows for path in paths)


def read_rows(
    folder: str, columns: list[str] | None = None, batch_size: int = 1_024
) -> Iterator[dict[str, Any]]:
    """Stream rows in file order, `batch_size` at a time; memory does not grow with the files."""
    found = schema(folder)
    arrow, paths = _arrow_files(folder)
    for path in paths:
        one = pads.FileSystemDatasetFactory(arrow, [path], pads.ParquetFileFormat()).finish(found)
        for batch in one.to_batches(columns=columns, batch_size=batch_size):
            yield from batch.to_pylist()
