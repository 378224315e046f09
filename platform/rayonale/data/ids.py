"""Stable ids: a hash of the converted row, its annotator, and its occurrence.

    content key = hash(row type, prompt, responses, label, scores, confidence, annotator, rubric,
                       reference)
    occurrence  = how many earlier rows (in source order) have the same content key
    id          = hash(content key, occurrence), 32 hex digits

So an id does not depend on file names, line numbers, workers, mixing or splits; the same pair
labelled by two annotators has two ids, and by one annotator twice too (occurrences 0 and 1).
Metadata is notes, not content: it does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayonale.records import Message

KEY_BYTES = 16
_GROUP_ROWS = 4_000_000  # keys that are sorted at a time: about 200 MB

_MESSAGES = ("prompt", "chosen", "rejected", "response")
_VALUES = (
    "label",
    "score",
    "scores",
    "score_chosen",
    "score_rejected",
    "confidence",
    "annotator",
    "rubric",
    "reference",
)


def content_key(row: dict[str, Any], row_type: str) -> bytes:
    """Hash of what a row says (16 bytes).

    Every piece is hashed with its length, so that no two rows are spelled alike.

    Raises:
        UnicodeEncodeError: a text holds a lone surrogate, which UTF-8 cannot hold.
    """
    pieces = [row_type]
    for column in _MESSAGES:
        if row.get(column) is not None:
            _spell(pieces, column, row[column])
    for place, response in enumerate(row.get("responses") or ()):
        _spell(pieces, f"responses {place}", response)
    for column in _VALUES:
        value = row.get(column)
        if value is not None:
            text = value if isinstance(value, str) else repr(value)
            pieces.append(f"{column} {len(text)}")
            pieces.append(text)
    return key_of("\0".join(pieces))


def _spell(pieces: list[str], column: str, messages: list[Message]) -> None:
    for message in messages:
        content = message["content"]
        pieces.append(f"{column} {message['role']} {len(content)}")
        pieces.append(content)


def key_of(text: str) -> bytes:
    """16-byte hash of a text."""
    return blake2b(text.encode("utf-8"), digest_size=KEY_BYTES).digest()


def row_id(key: bytes, occurrence: int) -> str:
    """Id of a row (32 hex digits)."""
    numbered = key + occurrence.to_bytes(8, "little")
    return blake2b(numbered, digest_size=KEY_BYTES).hexdigest()


def as_words(keys: list[bytes]) -> NDArray[np.uint64]:
    """Keys as two 64-bit words each, [N, 2]."""
    return np.frombuffer(b"".join(keys), dtype="<u8").reshape(len(keys), 2)


Keys = Callable[[], Iterable[NDArray[np.uint64]]]


def repeats(
    keys: Keys, total: int, group_rows: int = _GROUP_ROWS
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows whose key came before, and how often.

    Keys are read as many times as needed for memory to stay bounded, each time a share of them.

    Args:
        keys: called for a fresh pass over the keys in row order, arrays [n, 2].
        total: how many keys there are about.

    Returns:
        Positions in ascending order, and the number of earlier rows with the same key (1, 2 …).
    """
    shares = max(1, -(-total // group_rows))
    positions, counts = [], []
    for share in range(shares):
        words, places = _share(keys, share, shares)
        order = np.lexsort((words[:, 1], words[:, 0]))  # stable: row order within a key
        words, places = words[order], places[order]
        new = np.ones(len(words), dtype=bool)
        new[1:] = (words[1:] != words[:-1]).any(axis=1)
        index = np.arange(len(words))
        earlier = index - np.maximum.accumulate(np.where(new, index, 0))
        positions.append(places[earlier > 0])
        counts.append(earlier[earlier > 0])
    where, count = np.concatenate(positions), np.concatenate(counts)
    order = np.argsort(where)
    return where[order], count[order]


def _share(keys: Keys, share: int, shares: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    words: list[NDArray[np.uint64]] = [np.empty((0, 2), dtype="<u8")]
    places: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
    start = 0
    for batch in keys():
        mine = np.flatnonzero(batch[:, 1] % np.uint64(shares) == share)
        words.append(batch[mine])
        places.append(mine + start)
        start += len(batch)
    return np.concatenate(words), np.concatenate(places)
