"""A goal is told in the prompt exactly as in training, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayonale.records import Message
from rayonale.serve import goal

ASKED = [Message(role="user", content="Name two birds.")]


def test_a_goal_is_told_as_the_goals_stage_tells_it(tmp_path: Path) -> None:
    assert goal.read_goal(str(tmp_path)) is None
    (tmp_path / goal.FILE).write_text(json.dumps({"scale": {"overall": [1, 10]}}))
    record = goal.read_goal(str(tmp_path))
    from rayonale import prompts
    from rayonale.enrich.goals import with_goal

    expected = with_goal(ASKED, prompts.render("goal_system", goal="7"), "system")
    assert goal.told(record, 7.0, ASKED) == expected
    assert goal.told(record, {"overall": 7}, ASKED) == expected


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (None, "needs a goal: overall \\(1 to 10\\)"),
        (11.0, "overall: 11 is off its scale, 1 to 10"),
        (0.5, "off its scale"),
        ({"clarity": 3.0}, "expected a goal of overall"),
        ({}, "expected a goal of overall"),
    ],
)
def test_a_goal_off_the_scale_is_refused(asked: goal.Asked | None, message: str) -> None:
    record = goal.GoalRecord(scale={"overall": (1, 10)})
    with pytest.raises(goal.GoalError, match=message):
        goal.told(record, asked, ASKED)


def test_a_policy_without_goals_takes_none() -> None:
    assert goal.told(None, None, ASKED) == ASKED
    with pytest.raises(goal.GoalError, match="not trained on goals"):
        goal.told(None, 7.0, ASKED)


def test_several_attributes_are_not_asked_for_by_one_number() -> None:
    record = goal.GoalRecord(scale={"helpful": (0, 4), "correct": (0, 4)})
    with pytest.raises(goal.GoalError, match="helpful \\(0 to 4\\), correct"):
        goal.told(record, 3.0, ASKED)
