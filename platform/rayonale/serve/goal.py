"""The goal of a goal-conditioned policy: a field of the request, told exactly as in training.

How a policy was told its goals lies in its folder (`rayonale.enrich.goal_prompt`). Asked without a
goal it is asked for the best there is, as in sampling and evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rayonale import storage
from rayonale.enrich.goal_prompt import FILE, Goal, GoalPrompt
from rayonale.records import Message


@dataclass(frozen=True)
class GoalError(ValueError):
    """A goal that this policy cannot be asked for."""

    message: str

    def __str__(self) -> str:
        return self.message


def read_goal(folder: str) -> GoalPrompt | None:
    """The record in a model's folder; None for a policy without goals.

    Raises:
        ValueError: the file is not of that layout.
    """
    file = Path(folder) / FILE
    return GoalPrompt.model_validate(storage.read_json(str(file))) if file.is_file() else None


def scale_of(record: GoalPrompt) -> dict[str, tuple[float, float]]:
    """Least and largest value of each attribute; of `overall`, where there are none."""
    return dict.fromkeys(record.attributes or ("overall",), (record.low, record.high))


def told(record: GoalPrompt | None, asked: Goal | None, messages: list[Message]) -> list[Message]:
    """The conversation with its goal in place.

    Raises:
        GoalError: a goal for a policy without goals, an attribute that it does not have, a value
            off its scale, or a conversation that it cannot be told in.
    """
    if record is None:
        if asked is not None:
            raise GoalError("this policy was not trained on goals; leave `goal` out")
        return messages
    try:
        goal = record.top if asked is None else record.checked(asked, "goal")
        return record.put(messages, goal)
    except ValueError as error:
        raise GoalError(str(error)) from error
