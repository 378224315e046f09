"""Reading records as streams, never whole: JSON lines, Parquet, Hugging Face data sets."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from pydantic_core import from_json

from rayonale import storage
from rayonale.data.fields import BadRow
from rayonale.data.lines import MAX_LINE_BYTES, bounded_lines
from rayonale.data.sources import Hub, Part
from rayonale.records import RejectKind


class Record(NamedTuple):
    """A raw record: its line or row number (1-based), its value, or what is wrong and its text."""

    line: int
    value: Any
    problem: BadRow | None = None
    raw: str = ""


def read(part: Part, hub: Hub, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[Record]:
    """Records of a part, in order.

    Raises:
        ValueError: the file breaks off or is corrupt (what came before cannot be trusted to be
            all), is a JSON array, or the data set of the hub cannot be reached.
    """
    if part.kind == "hub":
        yield from _read_hub(part, hub)
        return
    fs, path = storage.filesystem(part.uri)
    try:
        with fs.open(path, "rb") as file:
            if part.kind == "parquet":
                yield from _read_parquet(file, part)
            else:
                yield from _read_lines(file, part, max_line_bytes)
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError, pa.ArrowException) as e:
        raise ValueError(f"{part.uri}: corrupt or cut off: {e}") from e


def _read_lines(file: Any, part: Part, max_line_bytes: int) -> Iterator[Record]:
    stream: Any = file
    if part.uri.endswith(".gz"):
        stream = gzip.GzipFile(fileobj=file)
    elif part.uri.endswith(".zst"):
        stream = _ZstdStream(file)
    else:
        file.seek(part.offset)
    for line in bounded_lines(stream, max_line_bytes, part.first, part.length):
        data = line.data
        if line.number == 1:
            data = data.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
            if data.lstrip().startswith(b"["):
                raise ValueError(
                    f"{part.uri}: a JSON array; expected JSON lines (one object a "
                    "line), for instance from `jq -c '.[]'`"
                )
        if line.cut_from:
            detail = f"found a line of {line.cut_from} bytes, at most {max_line_bytes} allowed"
            yield _bad(line.number, "line_too_long", detail, data, RejectKind.LIMIT)
            continue
        try:
            yield Record(line.number, from_json(data, cache_strings="keys"))
        except ValueError:
            yield _second_try(line.number, data)


def _second_try(number: int, data: bytes) -> Record:
    """A line that the fast parser refuses: the standard one is more lenient and tells more."""
    try:
        return Record(number, json.loads(data.decode("utf-8")))
    except UnicodeDecodeError as error:
        detail = f"found {error.reason} at byte {error.start}, expected UTF-8"
        return _bad(number, "not_utf8", detail, data)
    except (ValueError, RecursionError) as error:
        detail = f"{str(error)[:200]}; expected one JSON object"
        return _bad(number, "unparsable_line", detail, data)


def _bad(
    line: int, reason: str, detail: str, data: bytes, kind: RejectKind = RejectKind.INVALID
) -> Record:
    return Record(line, None, BadRow(reason, detail, kind), data.decode("utf-8", "replace"))


class _ZstdStream:
    """Reads Zstandard frames until the end; a frame that breaks off is an error, as in gzip."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._decoder = zstandard.ZstdDecompressor().decompressobj(read_across_frames=False)
        self._ready = b""
        self._started = False

    def read(self, size: int) -> bytes:
        while not self._ready:
            unused = self._decoder.unused_data if self._decoder.eof else b""
            data = unused or self._file.read(1 << 17)
            if not data:
                if self._started and not self._decoder.eof:
                    raise EOFError("the compressed stream ended before its end mark")
                return b""
            if self._decoder.eof:
                self._decoder = zstandard.ZstdDecompressor().decompressobj()
            self._started = True
            self._ready = self._decoder.decompress(data)
        taken, self._ready = self._ready[:size], self._ready[size:]
        return taken


def _read_parquet(file: Any, part: Part) -> Iterator[Record]:
    groups = None
    if part.length is not None:
        groups = range(part.offset, part.offset + part.length)
    row = part.first
    batches = pq.ParquetFile(file).iter_batches(batch_size=512, row_groups=groups)
    while True:
        try:
            batch = next(batches, None)
        except OSError as error:  # what damaged pages give
            raise ValueError(f"{part.uri}: corrupt or cut off: {error}") from error
        if batch is None:
            return
        for value in batch.to_pylist():
            yield Record(row, value)
            row += 1


def _read_hub(part: Part, hub: Hub) -> Iterator[Record]:
    import datasets

    name, _, at = part.uri.partition("@")
    try:
        stream = datasets.load_dataset(
            name, hub.config, split=hub.split, revision=at or hub.revision, streaming=True
        )
        for row, value in enumerate(stream, start=1):
            yield Record(row, value)
    except Exception as error:  # the hub's client raises whatever its transport raises
        raise ValueError(
            f"data set {name!r} (configuration {hub.config}, split {hub.split}): "
            f"{type(error).__name__}: {error}; expected the name of a data set of the hub that can "
            "be reached from here, or a path that exists"
        ) from error
