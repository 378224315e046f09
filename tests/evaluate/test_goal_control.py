"""Goal curves by hand, from samples of known scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayonale import storage
from rayonale.evaluate import goal_control
from rayonale.evaluate.goal_control import GoalControlSettings, curve_of, rank_correlation, verdict
from rayonale.records import MESSAGES
from rayonale.stages import StageContext, StageOutput

SAMPLES = pa.schema(
    [
        ("id", pa.string()), ("prompt", MESSAGES), ("responses", pa.list_(pa.string())),
        ("reward_responses", pa.list_(pa.float64())),
    ]
)  # fmt: skip
BY_REWARD = GoalControlSettings(reward="reward")


def samples(folder: Path, policy: str, goal: Any, scores: dict[str, list[float]]) -> StageOutput:
    """A samples stage: prompt id → scores of its samples."""
    name = f"{policy}_{goal}".replace(" ", "")
    uri = str(folder / str(abs(hash(name))))
    rows = (
        {"id": key, "prompt": [{"role": "user", "content": key}], "responses": ["x"] * len(each),
         "reward_responses": each}
        for key, each in scores.items()
    )  # fmt: skip
    storage.write_rows(f"{uri}/rows", rows, SAMPLES)
    manifest = {
        "inputs": {"model": {"name": policy}}, "details": {} if goal is None else {"goal": goal}
    }  # fmt: skip
    return StageOutput(name, uri, name, "samples", manifest)


def run(folder: Path, outputs: list[StageOutput], settings: GoalControlSettings = BY_REWARD) -> Any:
    inputs = {"samples": outputs}
    out = str(folder / "out")
    context = StageContext("control", out, inputs, None, "f", "c", None)  # type: ignore[arg-type]
    return goal_control.run(context, settings)


def test_a_policy_that_follows_and_one_that_does_not(tmp_path: Path) -> None:
    keys = [f"p{n}" for n in range(20)]
    follows = [
        samples(tmp_path, "ra", goal, {k: [goal + n % 3 - 1.0] for n, k in enumerate(keys)})
        for goal in (10.0, 4.0, 8.0)
    ]
    deaf = [
        samples(tmp_path, "dpo", goal, {k: [5.0 + n % 3, 5.0] for n, k in enumerate(keys)})
        for goal in (10.0, 4.0)
    ]
    plain = samples(tmp_path, "base", None, {k: [3.0] for k in keys})
    result = run(tmp_path, [*follows, *deaf, plain])
    ra, dpo = result.details["curves"]
    assert [point["goal"] for point in ra["points"]] == [4.0, 8.0, 10.0]
    # n % 3 − 1 over 20 prompts sums to −1
    assert [point["value"] for point in ra["points"]] == pytest.approx([3.95, 7.95, 9.95])
    assert [step["value"] for step in ra["steps"]] == pytest.approx([4.0, 2.0])
    assert (ra["verdict"], dpo["verdict"]) == ("rises at every step", "flat")
    assert ra["rank"]["value"] > 0.8 and ra["rank"]["low"] > 0.8
    assert dpo["rank"]["value"] == pytest.approx(0) and dpo["whole"]["value"] == 0
    assert result.rows_out == 20 * (3 + 2 * 2 + 1)
    assert {row["samples"] for row in result.details["table"]} == {
        "ra_10.0", "ra_4.0", "ra_8.0", "dpo_10.0", "dpo_4.0", "base_None",
    }  # fmt: skip
    rows = list(storage.read_rows(str(tmp_path / "out/rows")))
    assert dict(rows[0]["goal"]) == {"overall": 10.0}


def test_each_attribute_alone(tmp_path: Path) -> None:
    """tone is steered where ending is at its best; (1, 1) is in no curve."""
    from rayonale.evaluate.goal_control import Asked, curves_of

    def asked(tone: float, ending: float) -> Asked:
        scores = {"tone": {"p": tone, "q": tone}, "ending": {"p": ending, "q": ending}}
        return Asked("ra", f"{tone} {ending}", {"tone": tone, "ending": ending}, scores)

    every = [asked(*goal) for goal in ((5, 5), (1, 5), (3, 5), (5, 1), (1, 1))]
    tone, ending = curves_of(every, BY_REWARD)
    assert (tone["name"], [p["goal"] for p in tone["points"]]) == ("tone", [1, 3, 5])
    assert (ending["name"], [p["value"] for p in ending["points"]]) == ("ending", [1, 5])


def test_only_prompts_that_all_goals_have(tmp_path: Path) -> None:
    curve = curve_of([4, 8], [{"p": 1.0, "q": 2.0}, {"q": 5.0, "r": 9.0}], BY_REWARD)
    assert [point["value"] for point in curve["points"]] == [2.0, 5.0]
    with pytest.raises(ValueError, match="no prompt was answered for every goal"):
        curve_of([4, 8], [{"p": 1.0}, {"q": 1.0}], BY_REWARD)


def test_rank_correlation_by_hand() -> None:
    """Goals 1, 2 and scores (1, 2), (2, 1): ranks 1.5 and 3.5 against 1.5, 3.5, 3.5, 1.5: 0."""
    assert rank_correlation([1, 2], np.array([[1.0, 2], [2, 1]]), BY_REWARD)["value"] == 0
    assert rank_correlation([1, 2], np.array([[1.0, 2], [1, 2]]), BY_REWARD)["value"] == 1
    assert rank_correlation([1, 2], np.ones((3, 2)), BY_REWARD)["value"] == 0


@pytest.mark.parametrize(
    ("steps", "whole", "told"),
    [
        ([(0.1, 0.2), (0.3, 0.4)], (0.4, 0.6), "rises at every step"),
        ([(-0.1, 0.2), (0.3, 0.4)], (0.3, 0.6), "rises, not every step surely"),
        ([(-0.5, -0.1), (0.9, 1.1)], (0.3, 0.6), "rises, not at every step"),
        ([(-0.1, 0.2)], (-0.1, 0.2), "flat"),
        ([(-0.3, -0.2)], (-0.3, -0.2), "falls"),
    ],
)
def test_verdicts(steps: list, whole: tuple, told: str) -> None:
    def interval(low: float, high: float) -> dict[str, float]:
        return {"low": low, "high": high, "value": (low + high) / 2}

    assert verdict([interval(*step) for step in steps], interval(*whole)) == told


def test_what_gives_no_curve(tmp_path: Path) -> None:
    one = samples(tmp_path, "ra", 8.0, {"p": [1.0]})
    with pytest.raises(ValueError, match="no policy was asked for two goals"):
        run(tmp_path, [one])
    for given in ({}, {"scorer": "tinyworld_rubric", "reward": "reward"}):
        with pytest.raises(ValueError, match="give one of them"):
            GoalControlSettings(**given)
