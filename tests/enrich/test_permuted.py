"""Rationales that are there already, given to other rows of their split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rayonale import storage
from rayonale.enrich.permuted import PermuteSettings, run
from rayonale.records import RATIONALE
from rayonale.stages import StageContext, StageOutput

SCHEMA = pa.schema(
    [("id", pa.string()), ("split", pa.string()), ("rationales", pa.list_(RATIONALE))]
)


def rationale(text: str) -> dict[str, Any]:
    return {"text": text, "style": "detailed", "chosen_first": True, "seed": 1, "tokens": 3,
            "finish_reason": "stop", "grades": None}  # fmt: skip


def permute(folder: Path, rows: list[dict[str, Any]], seed: int = 0) -> list[dict[str, Any]]:
    storage.write_rows(str(folder / "in"), rows, SCHEMA)
    inputs = {"rows": StageOutput("in", str(folder / "in"), "f" * 32)}
    where = StageContext(
        "permuted", str(folder / f"out-{seed}"), inputs, None, "f" * 32, "c" * 32, run=None,  # type: ignore[arg-type]
    )  # fmt: skip
    result = run(where, PermuteSettings(seed=seed))
    assert result.rows_in == result.rows_out == len(rows)
    return list(storage.read_rows(str(folder / f"out-{seed}" / "rows")))


def test_each_row_has_anothers_of_its_split(tmp_path: Path) -> None:
    rows = [
        {"id": f"r{i}", "split": "test" if i % 3 == 0 else "train",
         "rationales": [rationale(f"of r{i}")] if i != 5 else []}
        for i in range(20)
    ]  # fmt: skip
    found = permute(tmp_path, rows)
    split = {row["id"]: row["split"] for row in rows}
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    given = {row["id"]: row["rationales"][0]["text"][3:] for row in found if row["rationales"]}
    assert sorted(given) == sorted(given.values()) == sorted(set(split) - {"r5"})
    assert all(there != here and split[there] == split[here] for here, there in given.items())
    assert found[5]["rationales"] == []
    assert permute(tmp_path, rows, seed=1) != found


def test_a_single_row_has_nobody_to_exchange_with(tmp_path: Path) -> None:
    rows = [
        {"id": name, "split": name, "rationales": [rationale(name)]} for name in ("train", "test")
    ]
    with pytest.raises(ValueError, match="split 'train' has one row with rationales"):
        permute(tmp_path, rows)
