"""A goal is told in the prompt exactly as in training, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayonale import prompts
from rayonale.enrich import goal_prompt
from rayonale.enrich.goal_prompt import Goal, GoalPrompt
from rayonale.records import Message
from rayonale.serve import goal

ASKED = [Message(role="user", content="Name two birds.")]


def prompt(name: str, attributes: tuple[str, ...] = ()) -> GoalPrompt:
    return GoalPrompt(
        template=name, text=prompts.source(name), place="system", low=1, high=10,
        attributes=attributes,
    )  # fmt: skip


def test_a_goal_is_told_as_training_told_it(tmp_path: Path) -> None:
    """From the folder that training left; without a goal it is the top of the scale."""
    assert goal.read_goal(str(tmp_path)) is None
    trained = prompt("goal_system")
    goal_prompt.save(trained, str(tmp_path))
    record = goal.read_goal(str(tmp_path))
    assert goal.told(record, 7.0, ASKED) == trained.put(ASKED, 7.0)
    assert goal.told(record, None, ASKED) == trained.put(ASKED, 10.0)
    assert "7" in goal.told(record, 7.0, ASKED)[0]["content"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (11.0, "goal: the goal is 11, off the scale of 1 to 10"),
        (0.5, "off the scale"),
        ({"clarity": 3.0}, "expected a number"),
    ],
)
def test_a_goal_off_the_scale_is_refused(asked: Goal, message: str) -> None:
    with pytest.raises(goal.GoalError, match=message):
        goal.told(prompt("goal_system"), asked, ASKED)


def test_a_policy_without_goals_takes_none() -> None:
    assert goal.told(None, None, ASKED) == ASKED
    with pytest.raises(goal.GoalError, match="not trained on goals"):
        goal.told(None, 7.0, ASKED)


def test_several_attributes_are_not_asked_for_by_one_number() -> None:
    record = prompt("goal_attributes", ("helpful", "correct"))
    with pytest.raises(goal.GoalError, match="expected scores of helpful, correct"):
        goal.told(record, 3.0, ASKED)
    with pytest.raises(goal.GoalError, match="unknown clarity"):
        goal.told(record, {"clarity": 3.0}, ASKED)
    both = goal.told(record, {"helpful": 3.0}, ASKED)
    assert both == record.put(ASKED, {"helpful": 3.0, "correct": 10.0})
