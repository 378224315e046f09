"""Accuracy of rewards by hand: ties, groups, calibration, categories; the report's section."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayonale import storage
from rayonale.evaluate import calibration, reward_accuracy
from rayonale.evaluate.reward_accuracy import RewardAccuracySettings
from rayonale.records import PAIR
from rayonale.report.evidence import Evidence
from rayonale.report.sections import oracles
from rayonale.stages import StageContext, StageOutput

# σ(ln 3) = ¾, σ(ln 9) = 0.9
LN3, LN9 = math.log(3), math.log(9)


def test_accuracy_by_hand() -> None:
    found = calibration.accuracy([2.0, -1.0, 0.0, 3.0])
    assert found.value == 0.625  # 1 + 0 + ½ + 1 of 4
    assert found.low < 0.625 < found.high


def test_calibration_by_hand() -> None:
    """Four pairs at ¾ of which three are right; two at 0.9 of which one is: |½ − 0.9| · 2/6."""
    gaps = [LN3, LN3, LN3, -LN3, LN9, -LN9]
    found = calibration.reliability(gaps)
    assert [each["pairs"] for each in found] == [4, 2]
    assert [each["probability"] for each in found] == pytest.approx([0.75, 0.9])
    assert [each["accuracy"] for each in found] == [0.75, 0.5]
    assert calibration.calibration_error(gaps) == pytest.approx(0.4 / 3)


@given(st.lists(st.floats(-60, 60), min_size=1, max_size=40))
def test_every_pair_is_in_one_bin(gaps: list[float]) -> None:
    found = calibration.reliability(gaps)
    assert sum(each["pairs"] for each in found) == len(gaps)
    assert all(each["low"] - 1e-9 <= each["probability"] <= each["high"] + 1e-9 for each in found)
    assert 0 <= calibration.calibration_error(gaps) <= 1


def test_intervals_in_words() -> None:
    edges = (0.5, 1, 2)
    told = [calibration.between(value, edges) for value in (0.1, 0.5, 1.5, 2, None)]
    assert told == ["< 0.5", "0.5 … 1", "1 … 2", "≥ 2", None]
    order = calibration.place_among(edges)
    assert sorted(filter(None, told[::-1]), key=order) == told[:4]


def row(number: int, rewards: tuple[float, float], scores: tuple[Any, Any], **more: Any) -> dict:
    return {
        "id": f"{number:032x}",
        "split": "test",
        "source": "/data/hh_rlhf.jsonl",
        "line": number,
        "format": "test",
        "annotator": None,
        "occurrence": 0,
        "prompt": [{"role": "user", "content": "p"}],
        "chosen": [{"role": "assistant", "content": "one two three"}],
        "rejected": [{"role": "assistant", "content": "one"}],
        "score_chosen": scores[0],
        "score_rejected": scores[1],
        "confidence": 7.0,
        "metadata": json.dumps({"subset": "Natural"}),
        "reward_chosen": rewards[0],
        "reward_rejected": rewards[1],
    } | more


ROWS = [
    row(1, (2, 1), (9, 4)),
    row(2, (1, 2), (4, 9)),  # the label is wrong, the reward is right by the scores
    row(3, (0, 1), (5, 5), confidence=2.0),
    row(4, (1, 0), (5, 4.5), metadata=json.dumps({"subset": "Neighbor"})),
    row(5, (0, 1), (8, 5), split="train"),
]


def measure(tmp_path: Path, **settings: Any) -> Any:
    schema = pa.schema([*PAIR, ("reward_chosen", pa.float64()), ("reward_rejected", pa.float64())])
    storage.write_rows(str(tmp_path / "in"), ROWS, schema)
    inputs = {"rows": StageOutput("scored", str(tmp_path / "in"), "abc")}
    run = SimpleNamespace(log_metrics=lambda values, step=None: None)
    context = StageContext(
        "accuracy",
        str(tmp_path / "out"),
        inputs,
        None,
        "f" * 32,
        "c" * 32,
        run,  # type: ignore[arg-type]
    )
    return reward_accuracy.run(context, RewardAccuracySettings(**settings))


def test_against_labels(tmp_path: Path) -> None:
    result = measure(tmp_path, category="subset")
    assert result.rows_out == 4
    assert result.metrics["accuracy"] == 0.5  # 1 and 4
    by = {each["group"]: each["value"] for each in result.details["by_category"]}
    assert by == {"Natural": pytest.approx(1 / 3), "Neighbor": 1}
    assert result.metrics["accuracy/mean_of_categories"] == pytest.approx(2 / 3)
    confidences = [(each["group"], each["prompts"]) for each in result.details["by_confidence"]]
    assert confidences == [("2", 1), ("7", 3)]
    assert result.details["by_length"][0]["group"] == "0 … 5"  # two words more


def test_against_scores(tmp_path: Path) -> None:
    """Pair 2 counts as its scores say, pair 3 has no order and is counted as left out."""
    result = measure(tmp_path, truth="scores")
    assert (result.rows_out, result.metrics["accuracy"]) == (3, 1)
    assert result.rejects == {"filtered": {"no_true_order": 1}}
    gaps = [(each["group"], each["prompts"]) for each in result.details["by_score_gap"]]
    assert gaps == [("0.5 … 1", 1), ("≥ 4", 2)]
    lengths = {each["group"] for each in result.details["by_length"]}
    assert lengths == {"-5 … 0", "0 … 5"}  # of pair 2 the better one is the shorter


def test_by_the_files_name(tmp_path: Path) -> None:
    result = measure(tmp_path, category="source")
    assert [each["group"] for each in result.details["by_category"]] == ["hh_rlhf"]


def test_rows_without_rewards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lacks true_chosen, true_rejected .a score stage adds"):
        measure(tmp_path, prefix="true")


def test_the_reports_section(tmp_path: Path) -> None:
    details = measure(tmp_path, category="subset").details
    output = StageOutput("accuracy", "x", "f", "reward_accuracy", {"details": details})
    found = oracles.section(Evidence("t", [output]))
    assert found is not None
    assert found.numbers["accuracy"][0]["accuracy"]["value"] == 0.5
    for told in ("Reliability", "Accuracy by category", "Neighbor", "scored"):
        assert told in found.html
    assert oracles.section(Evidence("t", [])) is None
