"""Rows and a small task that the tests of generation share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rayonale import records, storage
from rayonale.generate.settings import Completion, Request, Sampling, row_seed
from rayonale.generate.stream import Rejection

WORDS = ("birds", "trees", "metals", "rivers", "drinks", "colours", "vegetables", "tools")

SAMPLING = Sampling(temperature=1.0, top_p=0.95, max_tokens=48)
ADDS = pa.schema([("answers", pa.list_(pa.string()))])


def pairs(count: int) -> list[dict[str, Any]]:
    """Pairs of a small world; three of four in train, the fourth in test."""
    return [
        {
            "id": f"{i:032x}",
            "split": "test" if i % 4 == 3 else "train",
            "source": "pairs.jsonl",
            "line": i + 1,
            "format": "tinyworld",
            "annotator": None,
            "occurrence": 0,
            "prompt": _said("user", f"Name {2 + i % 4} {WORDS[i % 8]} in a calm tone. ({i})"),
            "chosen": _said("assistant", f"Softly, here are two {WORDS[i % 8]}."),
            "rejected": _said("assistant", f"What a day, {WORDS[(i + 1) % 8]}!"),
            "score_chosen": None,
            "score_rejected": None,
            "confidence": None,
            "metadata": "{}",
        }
        for i in range(count)
    ]


def _said(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def write_pairs(folder: str, count: int, rows_per_file: int = 50) -> str:
    """Write `count` pairs in several files; returns the folder."""
    with storage.ParquetWriter(folder, records.PAIR, rows_per_file) as writer:
        for row in pairs(count):
            writer.write(row)
    return folder


@dataclass(frozen=True)
class Answer:
    """A task that answers each prompt `n` times."""

    n: int = 2
    sampling: Sampling = SAMPLING
    json_schema: dict[str, Any] | None = None
    adds: pa.Schema = ADDS

    def requests(self, row: dict[str, Any]) -> list[Request] | Rejection | None:
        return [Request(row["prompt"], row_seed(0, row["id"], i)) for i in range(self.n)]

    def collect(
        self, row: dict[str, Any], completions: list[Completion]
    ) -> dict[str, Any] | Rejection:
        return {"answers": [each.text for each in completions]}


def answers(folder: str) -> dict[str, list[str]]:
    """id → answers of the rows in a folder; a repeated id fails."""
    found: dict[str, list[str]] = {}
    for row in storage.read_rows(folder):
        assert row["id"] not in found, f"id {row['id']} twice"
        found[row["id"]] = row["answers"]
    return found
