"""How a goal is told: one object that data, training and inference share.

    relabel, goals ─► rows whose prompts tell a goal ─► details.goal_prompt of the stage's manifest
                                                              │ train finds it through the rows
    samples, answers ◄─ goal: 8 ─ model/goal.json ◄───────────┘ and leaves it beside the weights

`goal.json` holds the template's text, not its name: a policy is asked in the words that it was
trained on, whatever becomes of the template's file. Not asked for anything else, it is asked for
the top of the scale.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rayonale import models, prompts, storage
from rayonale.records import Message

FILE = "goal.json"
DETAIL = "goal_prompt"  # of a manifest
OVERALL = "goal_system"
ATTRIBUTES = "goal_attributes"

# What is asked for: an overall score, or a score of each attribute.
Goal = float | dict[str, float]


def rounded(score: float, digits: int) -> float:
    """To so many decimals, halves upwards as grades are rounded.

    Python's `round` takes halves to the even neighbour: with scores in halves 8 would stand for
    three of them (7.5, 8, 8.5) and 9 for one. What has no decimals (infinity, 1e30) stays.
    """
    if not abs(score) < 2**53:
        return float(score)
    step = Decimal(1).scaleb(-digits)
    return float(Decimal(repr(float(score))).quantize(step, ROUND_HALF_UP)) + 0.0


class GoalPrompt(BaseModel):
    """The sentence that tells a goal, where it stands, and what goals there are.

    Attributes:
        template: name or path of the template, for the record.
        text: the template itself; `goal`, or `goals` (attribute → goal) with attributes, and
            `low` and `high`, the ends of the scale, can be used in it.
        place: in the system message, or before the last user turn.
        low, high: worst and best score.
        attributes: names, when a goal is one score each; none when it is an overall score.
        digits: decimals that are told; whole numbers have none.
        best: what is asked for when nothing else is; None: the top of the scale.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: str
    text: str
    place: Literal["system", "user"]
    low: float
    high: float
    attributes: tuple[str, ...] = ()
    digits: int = Field(default=1, ge=0)
    best: dict[str, float] | None = None

    @model_validator(mode="after")
    def _tells_a_goal(self) -> GoalPrompt:
        used, wanted = prompts.variables_of(self.text), "goals" if self.attributes else "goal"
        if wanted not in used:
            raise ValueError(
                f"template {self.template!r} does not tell {wanted!r}; it uses "
                f"{', '.join(sorted(used)) or 'no variable'}"
            )
        if not self.low < self.high:
            raise ValueError(f"scale: found {self.low:g} to {self.high:g}, expected low < high")
        return self

    @property
    def top(self) -> Goal:
        """The best goal there is."""
        if self.best is not None:
            return dict(self.best)
        return dict.fromkeys(self.attributes, self.high) if self.attributes else self.high

    def told(self, score: float) -> str:
        """A score as it is written: rounded to `digits`, whole numbers without ".0"."""
        return f"{rounded(score, self.digits):g}"

    def sentence(self, goal: Goal) -> str:
        """The sentence for a goal."""
        values: dict[str, Any] = {"low": self.told(self.low), "high": self.told(self.high)}
        if isinstance(goal, Mapping):
            values["goals"] = {name: self.told(goal[name]) for name in self.attributes}
        else:
            values["goal"] = self.told(goal)
        return prompts.render_text(self.text, where=self.template, **values)

    def put(self, prompt: list[Message], goal: Goal) -> list[Message]:
        """The prompt with its goal told."""
        return with_goal(prompt, self.sentence(goal), self.place)

    def take_back(self, prompt: list[Message], goal: Goal) -> list[Message]:
        """The prompt as it was before `put`.

        Raises:
            ValueError: this goal is not told in it.
        """
        return without_goal(prompt, self.sentence(goal), self.place)

    def checked(self, goal: Goal, where: str) -> Goal:
        """A goal that this prompt can tell; attributes that are not named get the best.

        Raises:
            ValueError: off the scale, an unknown attribute, or a number where attributes are told.
        """
        scores = goal if isinstance(goal, dict) else {"the goal": goal}
        for name, score in scores.items():
            if not self.low <= score <= self.high:
                raise ValueError(
                    f"{where}: {name} is {score:g}, off the scale of {self.low:g} to {self.high:g}"
                )
        if not self.attributes:
            if isinstance(goal, dict):
                raise ValueError(
                    f"{where}: found {goal}, expected a number: no attributes are told"
                )
            return goal
        if not isinstance(goal, dict):
            raise ValueError(
                f"{where}: found {goal:g}, expected scores of {', '.join(self.attributes)}"
            )
        if unknown := sorted(goal.keys() - set(self.attributes)):
            raise ValueError(
                f"{where}: unknown {', '.join(unknown)}; attributes: {', '.join(self.attributes)}"
            )
        top = self.top
        assert isinstance(top, dict)
        return {name: goal.get(name, top[name]) for name in self.attributes}

    def facts(self) -> dict[str, str]:
        """What a model card says."""
        return {
            "goal prompt": json.dumps(self.text),
            "goal is told in": {"system": "the system message", "user": "the user's turn"}[
                self.place
            ],
            "goal scale": f"{self.low:g} to {self.high:g}",
            "goal attributes": ", ".join(self.attributes) or "none: an overall score",
        }


def with_goal(prompt: list[Message], text: str, place: str) -> list[Message]:
    """The prompt with a sentence in its place: above what the message says already."""
    at = 0 if place == "system" else _last_user(prompt)
    message = prompt[at]
    if place == "system" and message["role"] != "system":
        return [Message(role="system", content=text), *prompt]
    told = Message(role=message["role"], content=f"{text}\n\n{message['content']}")
    return [*prompt[:at], told, *prompt[at + 1 :]]


def without_goal(prompt: list[Message], text: str, place: str) -> list[Message]:
    """`with_goal` undone.

    Raises:
        ValueError: the sentence is not there.
    """
    at = 0 if place == "system" else _last_user(prompt)
    message = prompt[at]
    if place == "system" and message == {"role": "system", "content": text}:
        return prompt[1:]
    if not message["content"].startswith(f"{text}\n\n"):
        raise ValueError(f"goal {text!r} is not told in {message['content'][:80]!r}")
    rest = Message(role=message["role"], content=message["content"].removeprefix(f"{text}\n\n"))
    return [*prompt[:at], rest, *prompt[at + 1 :]]


def _last_user(prompt: list[Message]) -> int:
    places = [at for at, message in enumerate(prompt) if message["role"] == "user"]
    if not places:
        raise ValueError("a prompt without a user turn; expected one to tell the goal in")
    return places[-1]


def place_of(model: str, chat_template: str | None = None) -> Literal["system", "user"]:
    """Where a model is told a goal: in the system message, if its chat template shows one."""
    from rayonale.data import tokens

    tokenizer = tokens.load_tokenizer(models.resolve(model), chat_template)
    return "system" if tokens.has_system_role(tokenizer) else "user"


def of_rows(manifest: Mapping[str, Any]) -> GoalPrompt | None:
    """How the prompts of a stage's rows tell a goal, found through the manifests; None: not."""
    found = manifest.get("details", {}).get(DETAIL)
    if found is not None:
        return GoalPrompt.model_validate(found)
    parent = (manifest.get("inputs") or {}).get("rows")
    if not isinstance(parent, dict) or parent.get("kind") == "external":
        return None
    uri = storage.join(parent["uri"], storage.MANIFEST)
    return of_rows(storage.read_json(uri)) if storage.exists(uri) else None


def save(found: GoalPrompt, folder: str) -> None:
    """Leave it in a model's folder."""
    storage.write_json(storage.join(folder, FILE), found.model_dump(mode="json"))


def of_model(model: str) -> GoalPrompt | None:
    """How a model was trained to be told a goal; None when it was not (or is on the hub)."""
    file = Path(models.resolve(model)) / FILE
    if not file.is_file():
        return None
    return GoalPrompt.model_validate(storage.read_json(str(file)))


def asked(
    wanted: Goal | Literal["none"] | None, model: str | None, told_by: str | None, where: str
) -> tuple[GoalPrompt, Goal] | None:
    """What a policy is asked for, and how; None: it is not asked.

    Args:
        wanted: None is the top of the scale, where the model was trained with goals; `none` asks
            such a model without one.
        model: folder or name of the policy (None: behind an endpoint).
        told_by: another model, whose goal prompt is taken.

    Raises:
        ValueError: a goal for a model that was not trained with goals, or one that it cannot have.
    """
    found = of_model(told_by) if told_by else of_model(model) if model else None
    if found is None and (wanted is not None or told_by is not None):
        raise ValueError(
            f"{where}: {told_by or model or 'the endpoint'} was not trained with goals (no "
            f"{FILE} in its folder), so how to tell one is not known; expected such a model, or "
            "one to take the prompt from in the role `goal_prompt`"
        )
    if found is None or wanted == "none":
        return None
    return found, found.top if wanted is None else found.checked(wanted, where)


def require_same(rows: GoalPrompt, model: str | None, where: str) -> None:
    """Refuse rows that tell a goal in other words than those of the model's training.

    Raises:
        ValueError: text, place, scale or attributes differ.
    """
    own = of_model(model) if model else None
    if own is None:
        return
    left_out = {"template", "digits"}
    mine, theirs = own.model_dump(exclude=left_out), rows.model_dump(exclude=left_out)
    if mine != theirs:
        name = next(name for name in mine if mine[name] != theirs[name])
        raise ValueError(
            f"{where}: the rows tell a goal with {name} {theirs[name]!r}, but the model was "
            f"trained with {mine[name]!r}; expected rows without a goal (the model's own is told)"
        )
