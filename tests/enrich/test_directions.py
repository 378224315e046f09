"""Directional preference alignment: weights, what is learnt by them, how they are asked for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from rayonale import storage
from rayonale.enrich import directions, goal_prompt
from rayonale.enrich.directions import DirectionSettings, direction
from rayonale.enrich.goal_prompt import GoalPrompt
from rayonale.records import PAIR
from rayonale.stages import StageContext, StageOutput

METADATA = '{"attributes_chosen":{"order":5,"tone":1},"attributes_rejected":{"order":2,"tone":5}}'


def pair(number: int, **more: Any) -> dict[str, Any]:
    return {
        "id": f"{number:032x}", "split": "train", "source": "s", "line": number, "format": "f",
        "annotator": None, "occurrence": 0, "prompt": [{"role": "user", "content": "A bird?"}],
        "chosen": [{"role": "assistant", "content": "wren"}],
        "rejected": [{"role": "assistant", "content": "crow"}], "score_chosen": None,
        "score_rejected": None, "confidence": None, "metadata": METADATA, **more,
    }  # fmt: skip


def run(tmp_path: Path, rows: list[dict], **settings: Any) -> Any:
    storage.write_rows(str(tmp_path / "in"), iter(rows), PAIR)
    inputs = {"rows": StageOutput("rows", str(tmp_path / "in"), "abc")}
    context = StageContext("dpa", str(tmp_path), inputs, None, "f", "c", None)  # type: ignore[arg-type]
    settings = {"attributes": ("order", "tone"), "place": "system"} | settings
    result = directions.run(context, DirectionSettings(**settings))
    rejects = [row["reason"] for row in storage.read_rows(str(tmp_path / "rejects"))]
    return list(storage.read_rows(str(tmp_path / "rows"))), rejects, result


def test_the_response_that_is_better_by_the_weights(tmp_path: Path) -> None:
    """wren is worth 5a + b, crow 2a + 5b: wren is better where 3a > 4b, b/a < 0.75."""
    rows, _, result = run(tmp_path, [pair(n) for n in range(60)])
    settings, answers = DirectionSettings(attributes=("order", "tone")), set()
    for row in rows:
        weights = direction(settings, row["id"])
        a, b = weights["order"], weights["tone"]
        assert math.hypot(a, b) == pytest.approx(100, abs=1)
        assert row["response"][0]["content"] == ("wren" if 3 * a > 4 * b else "crow")
        told = f"by these weights: order {a}, tone {b}."
        assert row["prompt"][0]["content"].endswith(told)
        answers.add(row["response"][0]["content"])
    assert answers == {"wren", "crow"}
    told = GoalPrompt.model_validate(result.details[goal_prompt.DETAIL])
    assert told.top == {"order": 100, "tone": 0}
    assert told.checked({"tone": 71, "order": 71}, "at") == {"order": 71, "tone": 71}


def test_equal_and_missing(tmp_path: Path) -> None:
    """At 0° only the first attribute counts, and it is equal."""
    equal = '{"attributes_chosen":{"order":5,"tone":1},"attributes_rejected":{"order":5,"tone":5}}'
    rows, rejects, _ = run(
        tmp_path, [pair(1, metadata=equal), pair(2, metadata="{}")], degrees=(0, 1e-9)
    )
    assert (rows, rejects) == ([], ["equal_scores", "no_score"])
    with pytest.raises(ValueError, match="expected -180"):
        DirectionSettings(attributes=("order", "tone"), degrees=(45, -45))
