"""Rows through ingestion and reshaping, counted and timed on the data itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.planning.test_estimates import estimate

from rayonale.planning.flow import Flow
from rayonale.tinyworld import generate_pairs

SPLITS = {"train": 0.5, "validation": 0.25, "test": 0.25}


def pairs_file(folder: Path, good: int, bad: int) -> str:
    rows = [json.dumps(row) for row in generate_pairs(good, 0)] + ["{broken"] * bad
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(rows) + "\n")
    return str(path)


def test_world(tmp_path: Path) -> None:
    found = estimate(tmp_path, "tinyworld_pairs", {"size": 3_000}, {})
    assert found.rows_out == 3_000
    assert len(found.flow.sample) == 512
    lines = [len(json.dumps(r, ensure_ascii=False).encode()) + 1 for r in found.flow.sample]
    assert found.bytes == pytest.approx(3_000 * sum(lines) / 512)


def test_ingest_reads_what_the_world_will_leave(tmp_path: Path) -> None:
    raw = estimate(tmp_path, "tinyworld_pairs", {"size": 3_000}, {}).flow
    found = estimate(tmp_path, "ingest", {"splits": SPLITS}, {"raw": raw})
    assert found.flow.rows == {"train": 1_500, "validation": 750, "test": 750}
    assert found.flow.sample[0]["chosen"][0]["role"] == "assistant"


def test_rejects_shrink_the_rows(tmp_path: Path) -> None:
    """80 of 100 lines are pairs: 400 of 500 of them, were there so many."""
    source = {"uri": pairs_file(tmp_path, 80, 20)}
    found = estimate(tmp_path, "ingest", {"sources": [source], "splits": SPLITS}, {})
    assert (found.rows_in, found.rows_out) == (100, 80)
    assert found.flow.rows["train"] == 40


def test_a_limit_and_a_split_of_its_own(tmp_path: Path) -> None:
    source = {"uri": pairs_file(tmp_path, 80, 0), "limit": 30, "split": "test"}
    found = estimate(tmp_path, "ingest", {"sources": [source]}, {})
    assert found.flow.rows == {"test": 30}


def test_a_hub_data_set_is_not_read_before(tmp_path: Path) -> None:
    hub = {"sources": [{"uri": "hf:org/pairs"}], "splits": SPLITS}
    found = estimate(tmp_path, "ingest", hub, {})
    assert found.seconds is None
    assert "give --assume it.rows" in found.missing
    told = estimate(tmp_path, "ingest", hub, {}, it__rows=1_000, it__prompt_tokens=7)
    assert told.flow.rows == {"train": 500, "validation": 250, "test": 250}
    assert told.flow.tokens == {"prompt": 7}
    two = {**hub, "sources": [*hub["sources"], {"uri": "hf:org/more", "split": "test"}]}
    assert "give --assume it.rows_test" in estimate(tmp_path, "ingest", two, {}, it__rows=9).missing


def test_sources_that_are_not_there_are_told(tmp_path: Path) -> None:
    source = {"uri": str(tmp_path / "none.jsonl")}
    found = estimate(tmp_path, "ingest", {"sources": [source]}, {})
    assert "nothing there" in found.missing


def test_reshape_doubles_pairs(tmp_path: Path) -> None:
    raw = estimate(tmp_path, "tinyworld_pairs", {"size": 100}, {}).flow
    pairs = estimate(tmp_path, "ingest", {"splits": SPLITS}, {"raw": raw}).flow
    found = estimate(tmp_path, "reshape", {"to": "labelled"}, {"rows": pairs})
    assert found.rows_out == 200
    assert found.flow.rows["train"] == 100
    assert "response" in found.flow.sample[0]
    assert "chosen" not in found.flow.sample[0]


def test_goals_keep_rows(tmp_path: Path) -> None:
    raw = estimate(tmp_path, "tinyworld_pairs", {"size": 40}, {}).flow
    pairs = estimate(tmp_path, "ingest", {"splits": SPLITS}, {"raw": raw}).flow
    found = estimate(tmp_path, "goals", {"goal": 9.0}, {"rows": pairs})
    assert found.rows_out == 40
    assert found.flow.sample[0]["prompt"][0]["role"] == "system"
    assert estimate(tmp_path, "goals", {"goal": 9.0}, {"rows": Flow()}).seconds is None
