"""Which rows are sampled."""

from __future__ import annotations

from pathlib import Path

from tests.generate.rows import pairs

from rayonale import records, storage
from rayonale.enrich.samples import SampleSettings, SampleTask, select
from rayonale.generate.settings import Completion


def test_first_row_of_each_distinct_prompt_of_the_split(tmp_path: Path) -> None:
    rows = pairs(16)
    rows[7]["prompt"] = rows[3]["prompt"]  # both in test
    storage.write_rows(str(tmp_path), rows, records.PAIR)
    lines = [row["line"] for row in select(str(tmp_path), SampleSettings())]
    assert lines == [4, 12, 16]
    lines = [row["line"] for row in select(str(tmp_path), SampleSettings(limit=2))]
    assert lines == [4, 12]


def test_all_samples_of_a_row_stay_together() -> None:
    settings = SampleSettings(n=2)
    task = SampleTask(settings, settings.sampling)
    row = pairs(1)[0]
    asked = task.requests(row)
    assert isinstance(asked, list)
    assert [request.messages for request in asked] == [row["prompt"]] * 2
    drawn = [
        Completion(text="a", tokens=2, finish_reason="stop"),
        Completion(text="", tokens=1, finish_reason="stop"),
    ]
    assert task.collect(row, drawn) == {
        "responses": ["a", ""],
        "response_tokens": [2, 1],
        "finish_reasons": ["stop", "stop"],
    }
