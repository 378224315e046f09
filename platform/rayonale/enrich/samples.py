"""Samples: a policy's own answers to the rows' prompts.

    row ─ prompt ─► policy ─► n responses      + columns responses, response_tokens, finish_reasons

Rows that share a prompt are sampled once: the first row in file order stands for them (its id is
the sample's id), so a prompt with many annotations does not count many times in a win rate.
Every policy that reads the same rows therefore answers the same ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import xxhash
from pydantic import Field

from rayonale import storage
from rayonale.enrich import estimates
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
    """

    splits: tuple[Split, ...] = ("test",)
    n: int = Field(default=1, ge=1)
    limit: int | None = Field(default=None, ge=1)
    sampling: Sampling = Sampling(temperature=1.0, top_p=0.95, max_tokens=512)


@dataclass(frozen=True)
class SampleTask:
    """The pass over distinct prompts; see `rayonale.generate.stream.Task`."""

    settings: SampleSettings
    sampling: Sampling
    json_schema: dict[str, Any] | None = None
    adds: pa.Schema = ADDS

    def requests(self, row: Row) -> list[Request] | Rejection | None:
        return [
            Request(row["prompt"], row_seed(self.settings.seed, row["id"], i))
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
    task = SampleTask(settings, settings.sampling)
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
    return StageResult(rows_in=count, rows_out=rows_out, rejects=rejects, metrics=metrics)


STAGE = Stage(
    kind="samples",
    settings=SampleSettings,
    run=run,
    reads={
        "rows": Reads("rows", ("id", "split", "prompt")),
        "model": Reads("model", optional=True),
    },
    adds=tuple(ADDS.names),
    validate=lambda settings: greedy_repeats(settings.n, settings.sampling),
    estimate=estimates.samples,
)
