"""Stage `judge`: N judgements of every input, pointwise or pairwise, raw text and all.

    row ─ template ─► judge ─► "… [RESULT] 4" ─ parser ─► {text, rationale, verdict 4, status ok, …}
                     n times, in one order or both

A row with one response is scored from 1 to 5, a row with two is compared. A judgement that cannot
be read keeps its text and the reason, has no verdict, and is counted; it is never drawn again
(which would bias the scores) nor turned into a number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import xxhash
from pydantic import Field, model_validator

from rayonale import storage
from rayonale.enrich import judge_estimates
from rayonale.enrich.generation import GenerationSettings, check_template, greedy_repeats, run_pass
from rayonale.enrich.judge_task import ADDS, JudgeTask
from rayonale.enrich.judgement_prompts import (
    PAIRWISE,
    POINTWISE,
    Orders,
    Shown,
    Wording,
    fingerprint,
    wording,
)
from rayonale.enrich.judgement_tally import Tally
from rayonale.evaluate import verdict_layouts, verdicts
from rayonale.evaluate.verdict_layouts import Layout
from rayonale.generate import finish
from rayonale.generate.settings import Sampling
from rayonale.stages import Reads, Stage, StageContext, StageResult

Row = dict[str, Any]


class JudgeSettings(GenerationSettings):
    """Settings of the `judge` stage, beside those of every stage with engines.

    Attributes:
        pointwise: template with the variables prompt, response, rubric, reference; it asks for a
            text that ends in `[RESULT]` and a score.
        pairwise: template with prompt, response_1, response_2, rubric, reference; it asks for a
            text that ends in `[RESULT]` and 1 or 2.
        layout: another way in which these templates have a judgement end; see
            `evaluate/verdict_layouts.py`.
        best: scores go from 1 to this.
        halves: a score between two whole numbers is read too, not refused.
        rubric: file with a rubric for all rows (.txt, .yaml, .json), in the place of the column
            `rubric`.
        show: columns that the templates are given, where rows have them.
        orders: of two responses: `both`, only `ab`, one that is drawn for each row (`shuffled`),
            or each response scored by itself (`apart`), with the pointwise template.
        ties: the pairwise template offers `[RESULT] tie`.
        n: judgements of each input in each order, each with a seed of its own.
        expected: also keep the mean verdict under the probabilities of the verdict's token.
        output: `structured` has the judge write a JSON object with `rationale` and `verdict`.
        limit: at most so many inputs, drawn with `limit_seed` from the splits; None takes all.
        skip: leave out so many of the inputs drawn first: a later round's share.
        max_unreadable: share of judgements that may be unreadable before the stage stops.
        unit_rows: as in other stages, but fewer, for each row has `n` judgements.
    """

    splits: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")
    pointwise: str = "judge_rubric"
    pairwise: str = "judge_rubric_pairwise"
    rubric: str | None = None
    layout: Layout = "result"
    best: int = Field(default=5, ge=2, le=100)
    halves: bool = False
    show: tuple[Shown, ...] = ("rubric", "reference")
    orders: Orders = "both"
    ties: bool = False
    n: int = Field(default=1, ge=1)
    expected: bool = False
    output: Literal["text", "structured"] = "text"
    limit: int | None = Field(default=None, ge=1)
    limit_seed: int = 0
    skip: int = Field(default=0, ge=0)
    max_unreadable: float = Field(default=0.9, ge=0, le=1)
    unit_rows: int = Field(default=16, ge=1)
    sampling: Sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=512)

    @model_validator(mode="after")
    def _choices_fit(self) -> JudgeSettings:
        if self.expected and self.output == "structured":
            raise ValueError("expected: a verdict inside JSON is no token; set output: text")
        if self.layout != "result" and (self.expected or self.output == "structured"):
            raise ValueError(
                f"layout: {self.layout} is read from plain text; expected: and output: structured "
                "need layout: result"
            )
        if self.rubric is not None and "rubric" not in self.show:
            raise ValueError(f"rubric: {self.rubric!r} would not be shown; add it to `show`")
        return self

    def wording(self) -> Wording:
        """The templates and what they are given."""
        return wording(
            self.pointwise, self.pairwise, rubric=self.rubric, show=self.show, orders=self.orders
        )

    def choices(self, kind: Literal["pointwise", "pairwise"]) -> dict[str, float]:
        """Verdicts that a judgement may have, as written → value."""
        if kind == "pairwise":
            return verdict_layouts.comparisons(self.layout, self.ties)
        return verdicts.scale(1, self.best, halves=self.halves)

    def json_schema(self) -> dict[str, Any] | None:
        """What a structured judgement must conform to."""
        if self.output == "text":
            return None
        labels = [*self.choices("pointwise"), *(["tie"] if self.ties else [])]
        return {
            "type": "object",
            "properties": {"rationale": {"type": "string"}, "verdict": {"enum": labels}},
            "required": ["rationale", "verdict"],
            "additionalProperties": False,
        }


def select(rows: str, settings: JudgeSettings) -> Iterator[Row]:
    """The inputs to judge: those of the splits, or a drawn part of them, in file order."""
    if settings.limit is None and not settings.skip:
        for row in storage.read_rows(rows):
            if row["split"] in settings.splits:
                yield row
        return
    ranks = sorted(
        (_rank(row["id"], settings.limit_seed), row["id"])
        for row in storage.read_rows(rows, ["id", "split"])
        if row["split"] in settings.splits
    )
    end = None if settings.limit is None else settings.skip + settings.limit
    wanted = {name for _, name in ranks[settings.skip : end]}
    for row in storage.read_rows(rows):
        if row["id"] in wanted:
            yield row


def _rank(row_id: str, seed: int) -> int:
    return xxhash.xxh3_64_intdigest(f"{seed}:{row_id}".encode())


def task_of(settings: JudgeSettings) -> JudgeTask:
    """The pass over inputs, as these settings have it."""
    return JudgeTask(
        settings.wording(),
        settings.sampling,
        settings.n,
        settings.seed,
        settings.choices("pointwise"),
        settings.choices("pairwise"),
        settings.layout,
        settings.expected,
        settings.json_schema(),
    )


def run(context: StageContext, settings: JudgeSettings) -> StageResult:
    """Select the inputs, judge, then split into rows and rejects.

    Raises:
        ValueError: no inputs, or more unreadable judgements than allowed.
    """
    selected = storage.join(context.out, storage.WORK, "selected")
    storage.remove(selected)  # a killed attempt may have left half of it; it is cheap and exact
    schema = storage.schema(context.rows()).remove_metadata()
    count = storage.write_rows(selected, select(context.rows(), settings), schema)
    if count == 0:
        raise ValueError(
            f"stages.{context.name}: no inputs of splits {', '.join(settings.splits)} in "
            f"{context.rows()} after {settings.skip} skipped; expected at least one"
        )
    task = task_of(settings)
    report, work = run_pass(context, settings, task, selected)
    tally = Tally()

    def change(row: Row) -> Row:
        tally.see(row["judgements"])
        return row

    rows_out, rejects = finish.split(work, context.out, change)
    if tally.unreadable_share > settings.max_unreadable:
        raise ValueError(
            f"stages.{context.name}: {tally.unreadable_share:.0%} of {tally.total} judgements are "
            f"unreadable ({json.dumps(tally.reasons)}), at most {settings.max_unreadable:.0%} "
            f"allowed (max_unreadable); the last: {tally.last!r}"
        )
    metrics = {**report.metrics(), **tally.metrics()}
    if report.seconds:
        fresh = report.rows - report.rows_resumed
        metrics["judgements_per_second"] = round(
            tally.total * fresh / max(1, report.rows) / max(report.seconds, 1e-9), 3
        )
    return StageResult(
        rows_in=count,
        rows_out=rows_out,
        rejects=rejects,
        metrics=metrics,
        details={"judgements": tally.table()},
        prompts=[settings.pointwise, settings.pairwise],
    )


def validate(settings: JudgeSettings) -> list[str]:
    """Messages about templates that ask for what they are not given, and equal repeats."""
    found = greedy_repeats(settings.n, settings.sampling)
    for name, known in (("pointwise", POINTWISE), ("pairwise", PAIRWISE)):
        told = check_template(getattr(settings, name), known)
        found += [message.replace("template:", f"{name}:", 1) for message in told]
    return found


def external(settings: JudgeSettings) -> dict[str, str]:
    """The rubric's content."""
    return (
        {} if settings.rubric is None else {"rubric": fingerprint(str(settings.wording().rubric))}
    )


STAGE = Stage(
    kind="judge",
    settings=JudgeSettings,
    run=run,
    reads={
        "rows": Reads("rows", ("id", "split", "prompt", "responses")),
        "model": Reads("model", optional=True),
    },
    adds=tuple(ADDS.names),
    sources=lambda settings: [f"prompt:{settings.pointwise}", f"prompt:{settings.pairwise}"],
    external_inputs=external,
    validate=validate,
    estimate=judge_estimates.judge,
)
