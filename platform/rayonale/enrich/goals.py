"""Stage `goals`: the wanted score is told in the prompt (SteerLM, reward-conditioned data).

    {"prompt": [user], "response": …, "score": 7.0}
        → {"prompt": [system "Target overall score: 7 …", user], "goal": 7.0, …}

With `goal: score` each labelled row is told its own response's score, to learn from; with a
number every row is told that one, to ask for it. Ids stay, so that answers to prompts with a goal
are compared with answers to the same prompts without.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa

from rayonale import prompts, storage
from rayonale.data.left_out import counts, reject
from rayonale.enrich import estimates
from rayonale.records import REJECT, Message, RejectKind
from rayonale.stages import Reads, Settings, Stage, StageContext, StageResult

Row = dict[str, Any]


class GoalSettings(Settings):
    """Settings of `goals`.

    Attributes:
        goal: `score` (labelled rows with a score), or the score that all rows are told.
        template: of the sentence, with the variable `goal` (a whole number without ".0").
        place: in the system message (one that is there goes on below it), or before the last
            user turn, for chat templates without a system role.
    """

    goal: Literal["score"] | float
    template: str = "goal_system"
    place: Literal["system", "user"] = "system"


def with_goal(prompt: list[Message], text: str, place: str) -> list[Message]:
    """The prompt with the sentence in its place."""
    if place == "user":
        *before, last = prompt
        return [*before, Message(role=last["role"], content=f"{text}\n\n{last['content']}")]
    first, rest = prompt[0], prompt[1:]
    if first["role"] == "system":
        return [Message(role="system", content=f"{text}\n\n{first['content']}"), *rest]
    return [Message(role="system", content=text), *prompt]


def run(context: StageContext, settings: GoalSettings) -> StageResult:
    """Tell every row its goal.

    Raises:
        ValueError: `goal: score` on rows that have no score of their own.
    """
    schema = storage.schema(context.rows()).remove_metadata()
    if settings.goal == "score" and "score" not in schema.names:
        raise ValueError(
            f"stages.{context.name}.goal: 'score' needs labelled rows (a reshape stage makes "
            f"them), found columns {', '.join(schema.names)}"
        )
    rejects: list[Any] = []
    read = 0

    def rows() -> Iterator[Row]:
        nonlocal read
        for row in storage.read_rows(context.rows()):
            read += 1
            goal = row["score"] if settings.goal == "score" else settings.goal
            if goal is None:
                rejects.append(reject(row, RejectKind.INVALID, "no_score", "score is null"))
                continue
            text = prompts.render(settings.template, goal=f"{goal:g}")
            yield {**row, "prompt": with_goal(row["prompt"], text, settings.place), "goal": goal}

    kept = [field for field in schema if field.name != "goal"]
    columns = pa.schema([*kept, ("goal", pa.float64())])
    count = storage.write_rows(storage.join(context.out, storage.ROWS), rows(), columns)
    storage.write_rows(storage.join(context.out, storage.REJECTS), iter(rejects), REJECT)
    return StageResult(
        rows_in=read, rows_out=count, rejects=counts(rejects), prompts=[settings.template]
    )


STAGE = Stage(
    kind="goals",
    settings=GoalSettings,
    run=run,
    sources=lambda settings: [f"prompt:{settings.template}"],
    reads={"rows": Reads("rows", columns=("id", "prompt"))},
    adds=("goal",),
    estimate=estimates.goals,
)
