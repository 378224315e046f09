"""Metrics of each step, kept in one JSONL file that never holds a step twice.

    {"step": 12, "loss": 0.61, "terms/preference": 0.61, "rewards/margin": 0.2, …}

Only the first worker writes. The file is replaced as a whole; a resumed run cuts it back to its
checkpoint, and the steps after it are written anew.
"""

from __future__ import annotations

import json
import time
from typing import Any

from rayonale import storage

FILE = "metrics.jsonl"
WRITE_EVERY = 2.0  # seconds


class History:
    """Steps so far; `write` is cheap to call often."""

    def __init__(self, uri: str, upto: int) -> None:
        """Take up the file at `uri`, steps below `upto` only."""
        self.uri = uri
        self.entries = [entry for entry in read(uri) if entry["step"] < upto]
        self._written = 0.0

    def add(self, entry: dict[str, Any]) -> None:
        """One step's metrics."""
        self.entries.append(entry)
        if time.monotonic() - self._written > WRITE_EVERY:
            self.write()

    def write(self) -> None:
        """Put all entries into the file."""
        lines = "".join(json.dumps(entry) + "\n" for entry in self.entries)
        storage.write_bytes(self.uri, lines.encode())
        self._written = time.monotonic()


def read(uri: str) -> list[dict[str, Any]]:
    """Entries of a file; none when it is not there."""
    if not storage.exists(uri):
        return []
    fs, path = storage.filesystem(uri)
    with fs.open(path, "rb") as file:
        return [json.loads(line) for line in file.read().decode().splitlines()]


def curves(entries: list[dict[str, Any]], points: int = 200) -> dict[str, list[Any]]:
    """Columns for plots, thinned to about `points` steps; validation keeps every point.

    Returns {"step": [...], "loss": [...], …, "validation": {"step": [...], …}}-like lists.
    """
    stride = max(1, len(entries) // points)
    thinned = [e for i, e in enumerate(entries) if i % stride == 0 or i == len(entries) - 1]
    sparse = ("validation/", "watch/")
    names = sorted({n for entry in thinned for n in entry if not n.startswith(sparse)})
    found: dict[str, list[Any]] = {name: [e.get(name) for e in thinned] for name in names}
    judged = [entry for entry in entries if "validation/loss" in entry]
    for name in sorted({n for entry in judged for n in entry if n.startswith("validation/")}):
        found[name] = [entry.get(name) for entry in judged]
    found["validation/step"] = [entry["step"] for entry in judged]
    watched = [entry for entry in entries if "watch/steps" in entry]
    for name in sorted({n for entry in watched for n in entry if n.startswith("watch/")}):
        found[name] = [entry.get(name) for entry in watched]
    return found
