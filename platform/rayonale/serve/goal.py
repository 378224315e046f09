"""The goal of a goal-conditioned policy: a field of the request, told as in training.

A policy that was trained on told scores has a `goal.json` in its folder::

    {"template": "goal_system", "place": "system", "scale": {"overall": [1, 10]}}

`scale` has the least and the largest value of each attribute. One attribute is asked for by a
number, several by an object.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from rayonale import prompts
from rayonale.enrich.goals import with_goal
from rayonale.records import Message

FILE = "goal.json"
Asked = float | dict[str, float]


class GoalRecord(BaseModel):
    """How a policy was told its goal; the layout of `goal.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: str = "goal_system"
    place: Literal["system", "user"] = "system"
    scale: dict[str, tuple[float, float]] = Field(min_length=1)


@dataclass(frozen=True)
class GoalError(ValueError):
    """A goal that this policy cannot be asked for."""

    message: str

    def __str__(self) -> str:
        return self.message


def read_goal(folder: str) -> GoalRecord | None:
    """The record in a model's folder; None for a policy without goals.

    Raises:
        ValueError: the file is not of that layout.
    """
    file = Path(folder) / FILE
    if not file.is_file():
        return None
    return GoalRecord.model_validate(json.loads(file.read_text(encoding="utf-8")))


def told(record: GoalRecord | None, asked: Asked | None, messages: list[Message]) -> list[Message]:
    """The conversation with its goal in place.

    Raises:
        GoalError: a goal for a policy without goals, none for one with goals, an attribute that
            it does not have, or a value off its scale.
    """
    if record is None:
        if asked is not None:
            raise GoalError("this policy was not trained on goals; leave `goal` out")
        return messages
    if asked is None:
        raise GoalError(f"this policy needs a goal: {_choices(record)}")
    values = asked if isinstance(asked, dict) else dict.fromkeys(record.scale, asked)
    if set(values) != set(record.scale) or (len(record.scale) > 1 and not isinstance(asked, dict)):
        raise GoalError(f"expected a goal of {_choices(record)}")
    for name, value in values.items():
        least, largest = record.scale[name]
        if not least <= value <= largest:
            raise GoalError(f"goal {name}: {value:g} is off its scale, {least:g} to {largest:g}")
    if len(values) == 1:
        text = prompts.render(record.template, goal=f"{next(iter(values.values())):g}")
    else:
        ordered = {name: f"{values[name]:g}" for name in record.scale}
        text = prompts.render(record.template, goals=ordered)
    return with_goal(messages, text, record.place)


def _choices(record: GoalRecord) -> str:
    return ", ".join(f"{name} ({low:g} to {high:g})" for name, (low, high) in record.scale.items())
