"""Train, validation and test parts that share no prompt.

A row's split follows from a hash of its prompt alone: rows with the same prompt (whatever their
case and white space, and whatever the system message) fall into the same split, in every source,
on every machine, and whatever else the data holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from rayonale.data import ids
from rayonale.records import Message
from rayonale.stages import Settings

NAMES = ("train", "validation", "test")


class Splits(Settings):
    """Shares of the prompts, and what counts as the same prompt.

    Attributes:
        train, validation, test: shares that add up to 1.
        salt: another salt draws other splits.
        by: `prompt` compares whole conversations; `first_turn` only their first user message, for
            data in which conversations are continued in other rows (HH-RLHF's are).
    """

    train: float = Field(default=0.9, ge=0, le=1)
    validation: float = Field(default=0.05, ge=0, le=1)
    test: float = Field(default=0.05, ge=0, le=1)
    salt: str = "rayonale"
    by: Literal["prompt", "first_turn"] = "prompt"

    @model_validator(mode="after")
    def _adds_up(self) -> Splits:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train + validation + test: found {total:g}, expected 1")
        return self


def prompt_key(prompt: list[Message], splits: Splits) -> bytes:
    """Hash of a prompt as splits see it (16 bytes)."""
    turns = [message for message in prompt if message["role"] != "system"]
    if splits.by == "first_turn":
        turns = turns[:1]
    normal = "\0".join(
        f"{message['role']}:{' '.join(message['content'].split()).casefold()}" for message in turns
    )
    key = _salt_key(splits.salt)
    return blake2b(normal.encode("utf-8"), digest_size=ids.KEY_BYTES, key=key).digest()


@lru_cache(maxsize=16)
def _salt_key(salt: str) -> bytes:
    return blake2b(salt.encode(), digest_size=32).digest()


def split_of(key: bytes, splits: Splits) -> str:
    """Split of a prompt: its key as a number in [0, 1), test first, so that a larger training
    share takes from validation before it takes from test."""
    place = int.from_bytes(key[:8], "little") / 2**64
    if place < splits.test:
        return "test"
    if place < splits.test + splits.validation:
        return "validation"
    return "train"


def leaks(keys: ids.Keys, numbers: NDArray[np.uint8], total: int) -> NDArray[np.int64]:
    """Positions of rows that are the first of their prompt in a second (third) split.

    Args:
        keys: a fresh pass over prompt keys in row order, arrays [n, 2].
        numbers: number of each row's split, [N].
    """

    def in_split() -> Iterator[NDArray[np.uint64]]:
        start = 0
        for words in keys():
            mixed = words.copy()
            mixed[:, 0] ^= numbers[start : start + len(words)].astype(np.uint64) + np.uint64(1)
            start += len(words)
            yield mixed

    repeated_prompt, _ = ids.repeats(keys, total)
    repeated_in_split, _ = ids.repeats(in_split, total)
    # A row that repeats a prompt, but not within its split, is where a prompt leaks.
    return np.setdiff1d(repeated_prompt, repeated_in_split)
