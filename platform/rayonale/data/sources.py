"""Where raw records come from: from a source's URI to parts that are read in one go.

    uri ── find ──► files (in name order) ── survey ──► parts ──► reading.py

A source is a file, a directory, a glob, or the name of a Hugging Face data set; files are local
or at any URI that fsspec opens: JSON lines (.jsonl, .ndjson, .json; plain, .gz or .zst) and
Parquet. Big plain JSON-lines files are parted at line ends and Parquet files at row groups, so
that several workers can read one file; every record keeps its line (or row) number.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from rayonale import storage

_HASHED_BYTES = 16 << 20
PART_BYTES = 32 << 20  # a part of a big file; also how much a worker reads before it reports

_LINES = re.compile(r"\.(jsonl|ndjson|json)(\.gz|\.zst)?$")
_HUB_NAME = re.compile(r"^[\w.-]+/[\w.-]+(@[\w.-]+)?$")
SUFFIXES = ".jsonl, .ndjson, .json (each also .gz or .zst), .parquet"


@dataclass(frozen=True)
class Part:
    """A piece of a source that is read in one go.

    Attributes:
        uri: file, or the data set's name.
        kind: lines | parquet | hub.
        bytes: size, for progress (of a data set of the hub: 0, unknown).
        offset, length: bytes of a plain file; row groups of a Parquet file; None is all.
        first: number of the first line or row.
    """

    uri: str
    kind: str
    bytes: int
    offset: int = 0
    length: int | None = None
    first: int = 1


@dataclass(frozen=True)
class Hub:
    """Which part of a Hugging Face data set: configuration, split, revision."""

    config: str | None = None
    split: str = "train"
    revision: str | None = None


def is_hub(uri: str) -> bool:
    """Whether a source is the name of a Hugging Face data set: `hf:name`, or a bare `org/name`
    that is not a path that exists."""
    if uri.startswith("hf:") and not uri.startswith("hf://"):
        return True
    return bool(_HUB_NAME.match(uri)) and _kind(uri) is None and not storage.exists(uri)


def find(uri: str) -> list[Part]:
    """Files of a source, in name order, one part each.

    Raises:
        ValueError: nothing there, or nothing of a kind that can be read.
    """
    if is_hub(uri):
        return [Part(uri.removeprefix("hf:"), "hub", 0)]
    fs, path = storage.filesystem(uri)
    if any(mark in path for mark in "*?["):
        found = fs.glob(path)
    elif fs.isdir(path):
        found = [f for f in fs.find(path) if not _hidden(f[len(path) :])]
        found = [f for f in found if _kind(f)]
    elif fs.exists(path):
        found = [path]
    else:
        raise ValueError(
            f"{uri}: nothing there; expected a file, a directory, a glob, or a name "
            "of a Hugging Face data set ('org/name' or 'hf:name')"
        )
    parts = []
    for file in sorted(f for f in found if not fs.isdir(f)):
        kind = _kind(file)
        if kind is None:
            raise ValueError(f"{file}: cannot be read; expected a name that ends in {SUFFIXES}")
        name = fs.unstrip_protocol(file) if "://" in uri else file
        parts.append(Part(name, kind, int(fs.size(file) or 0)))
    if not parts:
        raise ValueError(f"{uri}: found no file; expected names that end in {SUFFIXES}")
    return parts


def passed_over(uri: str) -> list[str]:
    """Files of a directory that `find` leaves out because of their names (hidden ones apart)."""
    if is_hub(uri):
        return []
    fs, path = storage.filesystem(uri)
    if any(mark in path for mark in "*?[") or not fs.isdir(path):
        return []
    names = [file[len(path) :].lstrip("/") for file in fs.find(path)]
    return sorted(name for name in names if not _hidden(name) and _kind(name) is None)


def _kind(file: str) -> str | None:
    if file.endswith(".parquet"):
        return "parquet"
    return "lines" if _LINES.search(file) else None


def _hidden(path: str) -> bool:
    return any(piece.startswith((".", "_")) for piece in path.split("/"))


def fingerprint(uri: str, hub: Hub) -> str:
    """What identifies a source's raw data, quickly: a change of it makes ingestion run again.

    Files count with their names and, up to 16 MiB, their content; bigger ones with what their
    file system tells of a change (size and time, an ETag). A data set of the hub counts with its
    name and revision (nothing is downloaded), a source that is not there with "absent" (so that a
    recipe can be checked without its data).
    """
    if is_hub(uri):
        return f"{uri}:{hub.config}:{hub.split}:{hub.revision}"
    digest = xxhash.xxh3_128()
    try:
        parts = find(uri)
    except ValueError:
        return "absent"
    for part in parts:
        fs, path = storage.filesystem(part.uri)
        digest.update(f"{part.uri.rsplit('/', 1)[-1]}:{part.bytes}:".encode())
        version = str(fs.ukey(path))
        small = part.bytes <= _HASHED_BYTES
        digest.update((_content_hash(part.uri, version) if small else version).encode())
    return digest.hexdigest()


@lru_cache(maxsize=65_536)
def _content_hash(uri: str, version: str) -> str:
    """Hash of a file's content; cached as long as its version stays."""
    fs, path = storage.filesystem(uri)
    return xxhash.xxh3_128_hexdigest(fs.cat_file(path))


def survey(part: Part) -> tuple[list[Part], dict[str, Any]]:
    """Read a file once: its parts, and its entry in a stage's `raw_inputs` (bytes, sha256)."""
    if part.kind == "hub":
        return [part], {"uri": f"hf:{part.uri}", "bytes": None, "sha256": None}
    fs, path = storage.filesystem(part.uri)
    plain = part.kind == "lines" and not part.uri.endswith((".gz", ".zst"))
    digest, parts = hashlib.sha256(), []
    start, first, line, place = 0, 1, 1, 0
    with fs.open(path, "rb") as file:
        while chunk := file.read(PART_BYTES):
            digest.update(chunk)
            end = chunk.rfind(b"\n") + 1 if plain else 0
            if end:
                line += chunk.count(b"\n")
                stop = place + end
                parts.append(
                    replace(
                        part, offset=start, length=stop - start, first=first, bytes=stop - start
                    )
                )
                start, first = stop, line
            place += len(chunk)
    if plain and start < place:
        parts.append(
            replace(part, offset=start, length=place - start, first=first, bytes=place - start)
        )
    if part.kind == "parquet":
        parts = _row_groups(part)
    entry = {"uri": part.uri, "bytes": place, "sha256": digest.hexdigest()}
    return parts or [part], entry


def _row_groups(part: Part) -> list[Part]:
    fs, path = storage.filesystem(part.uri)
    with fs.open(path, "rb") as file:
        try:
            metadata = pq.ParquetFile(file).metadata
        except pa.ArrowException as error:
            raise ValueError(f"{part.uri}: not a Parquet file: {error}") from error
    parts, first, group = [], 1, 0
    while group < metadata.num_row_groups:
        start, rows, size = group, 0, 0
        while group < metadata.num_row_groups and (group == start or size < PART_BYTES):
            rows += metadata.row_group(group).num_rows
            size += metadata.row_group(group).total_byte_size
            group += 1
        parts.append(replace(part, offset=start, length=group - start, first=first, bytes=size))
        first += rows
    return parts
