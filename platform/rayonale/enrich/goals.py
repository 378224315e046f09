"""Stage `goals`: the wanted score is told in the prompt (SteerLM, asking for a score).

    {"prompt": [user], "response": …, "score": 7.0}
        → {"prompt": [system "Aim at … 7 …", user], "goal": 7.0, …}

With `goal: score` each row is told the value of that column (a labelled row its own response's
score, to learn from); with a number, or attributes and numbers, every row is told that one. Ids
stay, so that answers to prompts with a goal are compared with answers to the same prompts without.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa

from rayonale import prompts, storage
from rayonale.data.left_out import counts, reject
from rayonale.enrich import estimates, goal_prompt
from rayonale.enrich.goal_prompt import Goal, GoalPrompt, with_goal
from rayonale.records import REJECT, RejectKind
from rayonale.stages import Reads, Settings, Stage, StageContext, StageResult

__all__ = ["STAGE", "GoalSettings", "with_goal"]

Row = dict[str, Any]


class GoalSettings(Settings):
    """Settings of `goals`.

    Attributes:
        goal: `score`, `score_chosen` or `score_rejected` (the column's value), or what all rows
            are told: a score, or a score of each attribute.
        scale: worst and best score.
        template: of the sentence, with the variable `goal` (a whole number without ".0") or
            `goals`, and the ends of the scale, `low` and `high`.
        place: in the system message (one that is there goes on below it), or before the last
            user turn, for chat templates without a system role.
    """

    goal: Literal["score", "score_chosen", "score_rejected"] | float | dict[str, float]
    scale: tuple[float, float] = (1, 10)
    template: str = goal_prompt.OVERALL
    place: Literal["system", "user"] = "system"

    def told(self) -> GoalPrompt:
        """How the goal is told.

        Raises:
            ValueError: no such template, or it does not tell the goal.
        """
        return GoalPrompt(
            template=self.template, text=prompts.source(self.template), place=self.place,
            low=self.scale[0], high=self.scale[1], digits=6,
            attributes=tuple(self.goal) if isinstance(self.goal, dict) else (),
        )  # fmt: skip


def run(context: StageContext, settings: GoalSettings) -> StageResult:
    """Tell every row its goal.

    Raises:
        ValueError: rows without the column that the goal is taken from, or a goal off the scale.
    """
    schema, told = storage.schema(context.rows()).remove_metadata(), settings.told()
    column = settings.goal if isinstance(settings.goal, str) else None
    if column is not None and column not in schema.names:
        expected = " labelled rows (a reshape stage makes them)" if column == "score" else " pairs"
        raise ValueError(
            f"stages.{context.name}.goal: {column!r} needs{expected}, found columns "
            f"{', '.join(schema.names)}"
        )
    if not isinstance(settings.goal, str):
        told.checked(settings.goal, f"stages.{context.name}.goal")
    rejects: list[Any] = []
    read = 0

    def rows() -> Iterator[Row]:
        nonlocal read
        for row in storage.read_rows(context.rows()):
            read += 1
            goal: Goal | None = (
                row[settings.goal] if isinstance(settings.goal, str) else settings.goal
            )
            if goal is None:
                rejects.append(reject(row, RejectKind.INVALID, "no_score", f"{column} is null"))
            elif isinstance(goal, float) and not told.low <= goal <= told.high:
                why = f"{column}: found {goal:g}, expected {told.low:g} to {told.high:g}"
                rejects.append(reject(row, RejectKind.INVALID, "off_scale", why))
            else:
                number = None if isinstance(goal, dict) else goal
                yield {**row, "prompt": told.put(row["prompt"], goal), "goal": number}

    kept = [field for field in schema if field.name != "goal"]
    columns = pa.schema([*kept, ("goal", pa.float64())])
    count = storage.write_rows(storage.join(context.out, storage.ROWS), rows(), columns)
    storage.write_rows(storage.join(context.out, storage.REJECTS), iter(rejects), REJECT)
    return StageResult(
        rows_in=read,
        rows_out=count,
        rejects=counts(rejects),
        details={goal_prompt.DETAIL: told.model_dump(mode="json")},
        prompts=[settings.template],
    )


def _validate(settings: GoalSettings) -> list[str]:
    try:
        settings.told()
    except ValueError as error:
        return [f"template: {error}"]
    return []


STAGE = Stage(
    kind="goals",
    settings=GoalSettings,
    run=run,
    sources=lambda settings: [f"prompt:{settings.template}"],
    reads={"rows": Reads("rows", columns=("id", "prompt"))},
    adds=("goal",),
    validate=_validate,
    estimate=estimates.goals,
)
