"""Pairs of scored samples by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rayonale import storage
from rayonale.data import pair_samples
from rayonale.data.pair_samples import PairSamplesSettings, Sample, pair_of, pick
from rayonale.enrich.samples import ADDS
from rayonale.records import PAIR
from rayonale.stages import StageContext, StageOutput

TEXTS = ["elm", "oak", "wren", "oak ", "crow"]


def row(number: int = 0, scores: list | None = None, **more: Any) -> dict[str, Any]:
    said = [{"role": "assistant", "content": "x"}]
    return {
        "id": f"{number:032x}", "split": "train", "source": "s", "line": 1, "format": "f",
        "annotator": None, "occurrence": 0, "prompt": [{"role": "user", "content": "A bird?"}],
        "chosen": said, "rejected": said, "score_chosen": 1.0, "score_rejected": 1.0,
        "confidence": 5.0, "metadata": '{"attributes_chosen": {}, "flipped": false}',
        "responses": TEXTS, "response_tokens": [4, 9, 10, 9, 5],
        "finish_reasons": ["stop", "length", "stop", "stop", "stop"],
        "reward_responses": [7.0, 3.5, 9.0, 3.5, 6.0] if scores is None else scores,
        **more,
    }  # fmt: skip


def test_best_and_worst_with_the_list() -> None:
    found = pair_of(row(), PairSamplesSettings())
    assert (found["chosen"][0]["content"], found["score_chosen"]) == ("wren", 9.0)
    assert (found["rejected"][0]["content"], found["score_rejected"]) == ("oak", 3.5)
    assert found["scores"] == [7.0, 3.5, 9.0, 6.0]  # what was drawn twice is once in the list
    assert [r[0]["content"] for r in found["responses"]] == ["elm", "oak", "wren", "crow"]
    assert (found["id"], found["confidence"]) == ("0" * 32, None)
    assert found["metadata"] == '{"flipped": false}'  # nothing of the row's own responses


def test_best_and_random() -> None:
    settings = PairSamplesSettings(rejected="random", seed=3)
    drawn = {pair_of(row(n), settings)["rejected"][0]["content"] for n in range(40)}
    assert drawn == {"elm", "oak", "crow"}  # never the best
    assert pair_of(row(7), settings) == pair_of(row(7), settings)


def test_the_largest_gap_of_like_length() -> None:
    """Tokens 4, 9, 10, 5: within 1.2 times only 9 and 10 are alike, within 1.3 also 4 and 5."""
    assert pair_of(row(), PairSamplesSettings(length_ratio=1.2))["score_rejected"] == 3.5
    scores = [7.0, 8.9, 9.0, 8.9, 6.0]
    found = pair_of(row(scores=scores), PairSamplesSettings(length_ratio=1.3))
    assert (found["score_chosen"], found["score_rejected"]) == (7.0, 6.0)
    samples = [Sample("a", 1.0, 1), Sample("b", 2.0, 9)]
    with pytest.raises(ValueError, match="no two different scores within 2 times the length"):
        pick(samples, PairSamplesSettings(length_ratio=2), "k")


def test_cut_off_responses_can_be_left_out() -> None:
    """The first "oak" was cut off; the second one, which ended, takes its place."""
    found = pair_of(row(scores=[7.0, 1.0, 9.0, 3.0, 6.0]), PairSamplesSettings(drop_cut_off=True))
    assert found["score_rejected"] == 3.0


def run(tmp_path: Path, rows: list[dict], **settings: Any) -> tuple[list, list, Any]:
    schema = pa.schema([*PAIR, *ADDS, ("reward_responses", pa.list_(pa.float64()))])
    storage.write_rows(str(tmp_path / "in"), iter(rows), schema)
    inputs = {"rows": StageOutput("rows", str(tmp_path / "in"), "abc")}
    out = str(tmp_path / "out")
    context = StageContext("it", out, inputs, None, "f", "c", None)  # type: ignore[arg-type]
    result = pair_samples.run(context, PairSamplesSettings(**settings))
    found = list(storage.read_rows(f"{out}/rows"))
    return found, list(storage.read_rows(f"{out}/rejects")), result


def test_every_row_is_a_pair_or_has_a_reason(tmp_path: Path) -> None:
    rows = [
        row(0), row(1, [5.0] * 5), row(2, [5.0, 5.5, 5.0, 5.5, 5.2]), row(3, [5.0]),
        row(4, [5.0, None, 3.0, 2.0, 1.0]), row(5, responses=["a"] * 5),
    ]  # fmt: skip
    found, rejects, result = run(tmp_path, rows, min_gap=1.0)
    assert [r["id"][-1] for r in found] == ["0"]
    assert [r["reason"] for r in rejects] == [
        "equal_scores", "small_gap", "no_scores", "no_scores", "fewer_than_two_responses",
    ]  # fmt: skip
    assert (result.rows_in, result.rows_out) == (6, 1)
    assert result.metrics["responses_drawn"] == 5 and result.metrics["responses_different"] == 4
    assert result.metrics["score_gap_mean"] == 5.5


def test_what_would_be_ignored_or_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seed: ignored"):
        PairSamplesSettings(seed=1)
    with pytest.raises(ValueError, match="length_ratio: takes the largest gap"):
        PairSamplesSettings(length_ratio=2, rejected="random")
    with pytest.raises(ValueError, match="no column gold_responses"):
        run(tmp_path, [row()], reward="gold")
