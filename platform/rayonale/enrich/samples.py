"""Samples: a policy's own answers to the rows' prompts.

    row ─ prompt ─► policy ─► n responses      + columns responses, response_tokens, finish_reasons

Rows that share a prompt are sampled once: the first row in file order stands for them (its id is
the sample's id), so a prompt with many annotations does not count many times in a win rate.
Every policy that reads the same rows therefore answers the same ids.

A policy that was trained with goals is told one in the words of its training, the top of the scale
unless another is asked for; the rows keep the prompt without it, so that answers to several goals
are compared on the same prompts and no judge sees the goal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import xxhash
from pydantic import Field

from rayonale import storage
from rayonale.enrich import estimates, goal_prompt
from rayonale.enrich.generation import GenerationSettings, Split, greedy_repeats, run_pass
from rayonale.generate import finish
from rayonale.generate.settings import Completion, Request, Sampling, row_seed
from rayonale.generate.stream import Rejection
from rayonale.stages import Reads, Stage, StageContext, StageResult

ADDS = pa.schema(
    [
        ("responses", pa.list_(pa.string())),
        ("response_tokens", pa.list_(pa.int64())),
        ("finish_reasons", pa.list_(pa.string())),
    ]
)

Row = dict[str, Any]


class SampleSettings(GenerationSettings):
    """Settings of the `samples` stage, beside those of every stage with engines.

    Attributes:
        n: responses drawn for a prompt, each with a seed of its own.
        limit: at most so many distinct prompts, the first in file order; None takes all.
        goal: what a policy is asked for that was trained with goals, or any policy in the words
            of the model read as `goal_prompt`: a score, or a score of each attribute (those not
            named: the best). None is the top of the scale, `none` asks for nothing.
    """

    splits: tuple[Split, ...] = ("test",)
    n: int = Field(default=1, ge=1)
    limit: int | None = Field(default=None, ge=1)
    sampling: Sampling = Sampling(temperature=1.0, top_p=0.95, max_tokens=512)
    goal: goal_prompt.Goal | Literal["none"] | None = None


@dataclass(frozen=True)
class SampleTask:
    """The pass over distinct prompts; see `rayonale.generate.stream.Task`.

    Attributes:
        asked: the goal that prompts are told, and how.
    """

    settings: SampleSettings
    sampling: Sampling
    json_schema: dict[str, Any] | None = None
    adds: pa.Schema = ADDS
    asked: tuple[goal_prompt.GoalPrompt, goal_prompt.Goal] | None = None

    def requests(self, row: Row) -> list[Request] | Rejection | None:
        prompt = row["prompt"]
        if self.asked is not None:
            told, goal = self.asked
            prompt = told.put(prompt, goal)
        return [
            Request(prompt, row_seed(self.settings.seed, row["id"], i))
            for i in range(self.settings.n)
        ]

    def collect(self, row: Row, completions: list[Completion]) -> Row | Rejection:
        # An empty answer is an answer: it is judged, not dropped.
        return {
            "responses": [each.text for each in completions],
            "response_tokens": [each.tokens for each in completions],
            "finish_reasons": [each.finish_reason for each in completions],
        }


def select(rows: str, settings: SampleSettings) -> Iterator[Row]:
    """The first row of each distinct prompt of the wanted splits, in file order."""
    seen: set[int] = set()
    for row in storage.read_rows(rows):
        if row["split"] not in settings.splits:
            continue
        key = xxhash.xxh3_64_intdigest(json.dumps(row["prompt"], sort_keys=True).encode())
        if key in seen:
            continue
        seen.add(key)
        yield row
        if len(seen) == settings.limit:
            return


def run(context: StageContext, settings: SampleSettings) -> StageResult:
    """Select the prompts, sample, then split into rows and rejects."""
    selected = storage.join(context.out, storage.WORK, "selected")
    storage.remove(selected)  # a killed attempt may have left half of it; it is cheap and exact
    schema = storage.schema(context.rows()).remove_metadata()
    count = storage.write_rows(selected, select(context.rows(), settings), schema)
    if count == 0:
        raise ValueError(
            f"stages.{context.name}: no rows of splits {', '.join(settings.splits)} in "
            f"{context.rows()}; expected at least one"
        )
    asked = asked_of(context, settings)
    task = SampleTask(settings, settings.sampling, asked=asked)
    report, work = run_pass(context, settings, task, selected)
    totals = {"responses": 0, "tokens": 0, "cut": 0}

    def change(row: Row) -> Row:
        totals["responses"] += len(row["responses"])
        totals["tokens"] += sum(row["response_tokens"])
        totals["cut"] += row["finish_reasons"].count("length")
        return row

    rows_out, rejects = finish.split(work, context.out, change)
    metrics = {
        **report.metrics(),
        "responses": totals["responses"],
        "responses_cut_off": totals["cut"],
        "response_tokens_mean": round(totals["tokens"] / max(1, totals["responses"]), 2),
    }
    details = {} if asked is None else {"goal": asked[1], "goal_told": asked[0].sentence(asked[1])}
    return StageResult(
        rows_in=count, rows_out=rows_out, rejects=rejects, metrics=metrics, details=details
    )


def asked_of(
    context: StageContext, settings: SampleSettings
) -> tuple[goal_prompt.GoalPrompt, goal_prompt.Goal] | None:
    """The goal that the policy is asked for, in the words that it knows.

    None where it is not asked, or where the rows' own prompts tell a goal.

    Raises:
        ValueError: the policy cannot be asked for it, or two goals would be told.
    """
    at = f"stages.{context.name}.goal"
    read, teller = (context.inputs.get(role) for role in ("model", "goal_prompt"))
    model = None if settings.endpoint else read.model if read is not None else settings.model
    told = goal_prompt.of_rows(context.inputs["rows"].manifest)
    if told is None:
        told_by = teller.model if teller is not None else None
        return goal_prompt.asked(settings.goal, model, told_by, at)
    if settings.goal is not None or teller is not None:
        raise ValueError(f"{at}: the rows' prompts tell a goal already; expected plain rows")
    goal_prompt.require_same(told, model, at)
    return None


STAGE = Stage(
    kind="samples",
    settings=SampleSettings,
    run=run,
    reads={
        "rows": Reads("rows", ("id", "split", "prompt")),
        "model": Reads("model", optional=True),
        "goal_prompt": Reads("model", optional=True),
    },
    adds=tuple(ADDS.names),
    validate=lambda settings: greedy_repeats(settings.n, settings.sampling),
    estimate=estimates.samples,
)
