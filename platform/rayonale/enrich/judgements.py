"""Stage `judge`: N judgements of every input, pointwise or pairwise, raw text and all.

    row ─ template ─► judge ─► "… [RESULT] 4" ─ parser ─► {text, rationale, verdict 4, status ok, …}
                     n times, in one order or both

A row with one response is scored from 1 to 5, a row with two is compared. A judgement that cannot
be read keeps its text and the reason, has no verdict, and is counted; it is never drawn again
(which would bias the scores) nor turned into a number.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import xxhash
from pydantic import Field, model_validator

from rayonale import storage
from rayonale.enrich.generation import GenerationSettings, check_template, greedy_repeats, run_pass
from rayonale.enrich.grades import last_object
from rayonale.enrich.judgement_prompts import (
    PAIRWISE,
    POINTWISE,
    Orders,
    Shown,
    Wording,
    fingerprint,
    in_rows_terms,
    is_pairwise,
    wording,
)
from rayonale.evaluate import verdicts
from rayonale.evaluate.soft_verdicts import expected_verdict
from rayonale.generate import finish
from rayonale.generate.settings import Completion, Request, Sampling, row_seed
from rayonale.generate.stream import Rejection
from rayonale.records import JUDGEMENT, Message, RejectKind
from rayonale.stages import Reads, Stage, StageContext, StageResult

Row = dict[str, Any]

# The judge's prompt in each order, as text of one user message: what its judgements answer.
JUDGE_PROMPTS = pa.list_(pa.struct([("order", pa.string()), ("text", pa.string())]))
ADDS = pa.schema([("judgements", pa.list_(JUDGEMENT)), ("judge_prompts", JUDGE_PROMPTS)])
SCORES = verdicts.scale(1, 5)
# Most likely tokens asked for, where the expected score is wanted: what vLLM gives at most.
_TOP = 20


class JudgeSettings(GenerationSettings):
    """Settings of the `judge` stage, beside those of every stage with engines.

    Attributes:
        pointwise: template with the variables prompt, response, rubric, reference; the judge's
            text must end in `[RESULT]` and 1 to 5.
        pairwise: template with prompt, response_1, response_2, rubric, reference; it must end in
            `[RESULT]` and 1 or 2.
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
    """

    splits: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")
    pointwise: str = "judge_rubric"
    pairwise: str = "judge_rubric_pairwise"
    rubric: str | None = None
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
    sampling: Sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=512)

    @model_validator(mode="after")
    def _choices_fit(self) -> JudgeSettings:
        if self.expected and self.output == "structured":
            raise ValueError("expected: a verdict inside JSON is no token; set output: text")
        if self.rubric is not None and "rubric" not in self.show:
            raise ValueError(f"rubric: {self.rubric!r} would not be shown; add it to `show`")
        return self

    def wording(self) -> Wording:
        """The templates and what they are given."""
        return wording(
            self.pointwise, self.pairwise, rubric=self.rubric, show=self.show, orders=self.orders
        )

    def json_schema(self) -> dict[str, Any] | None:
        """What a structured judgement must conform to."""
        if self.output == "text":
            return None
        labels = list(dict.fromkeys([*SCORES, *(["tie"] if self.ties else [])]))
        return {
            "type": "object",
            "properties": {"rationale": {"type": "string"}, "verdict": {"enum": labels}},
            "required": ["rationale", "verdict"],
            "additionalProperties": False,
        }


@dataclass(frozen=True)
class JudgeTask:
    """The pass over inputs; see `rayonale.generate.stream.Task`."""

    wording: Wording
    sampling: Sampling
    n: int
    seed: int
    ties: bool = False
    expected: bool = False
    json_schema: dict[str, Any] | None = None
    adds: pa.Schema = ADDS

    def requests(self, row: Row) -> list[Request] | Rejection | None:
        try:
            orders = self.wording.orders_of(row)
        except ValueError as error:
            return Rejection(RejectKind.INVALID, "wrong_responses", f"responses: {error}")
        texts = {order: self.wording.render(row, order) for order in orders}
        return [
            Request(
                [Message(role="user", content=texts[order])], seed, _TOP if self.expected else 0
            )
            for order, seed in self._drawn(row, orders)
        ]

    def collect(self, row: Row, completions: list[Completion]) -> Row | Rejection:
        orders = self.wording.orders_of(row)
        texts = {order: self.wording.render(row, order) for order in orders}
        judged = [
            self._judgement(each, texts[order], order, seed)
            for (order, seed), each in zip(self._drawn(row, orders), completions, strict=True)
        ]
        shown = [{"order": order, "text": text} for order, text in texts.items()]
        return {"judgements": judged, "judge_prompts": shown}

    def _drawn(
        self, row: Row, orders: tuple[str | None, ...]
    ) -> list[tuple[str | None, int | None]]:
        """Order and seed of each judgement: all of the first order, then those of the next."""
        drawn = self.sampling.temperature > 0
        return [
            (order, row_seed(self.seed, f"{row['id']}:{order}", i) if drawn else None)
            for order in orders
            for i in range(self.n)
        ]

    def _judgement(
        self, completion: Completion, prompt: str, order: str | None, seed: int | None
    ) -> Row:
        choices = choices_of(order, self.ties)
        read = read_structured if self.json_schema else verdicts.read_verdict
        found = read(
            completion.text, choices, prompt=prompt, finish_reason=completion.finish_reason
        )
        expected = None
        if self.expected and found.value is not None:
            expected = expected_verdict(completion.steps, choices)
        return {
            "text": completion.text,
            "rationale": found.rationale,
            "verdict": in_rows_terms(found.value, order),
            "expected": in_rows_terms(expected, order),
            "status": found.status,
            "reason": found.reason,
            "order": order,
            "seed": seed,
            "tokens": completion.tokens,
            "finish_reason": completion.finish_reason,
            "prompt_fingerprint": fingerprint(prompt),
            "rating": None,
        }


def choices_of(order: str | None, ties: bool = False) -> dict[str, float]:
    """Verdicts that a judgement in this order may have."""
    if not is_pairwise(order):
        return SCORES
    return dict(verdicts.PAIRWISE_TIE if ties else verdicts.PAIRWISE)


def read_structured(
    text: str, choices: Any, *, prompt: str = "", finish_reason: str | None = None
) -> verdicts.Verdict:
    """A judgement that was written as a JSON object; unreadable where it is not whole."""
    found = last_object(text)
    if found is None:
        why = "cut_off" if finish_reason == "length" else "no_verdict" if text.strip() else "empty"
        return verdicts.Verdict(None, text.strip(), why)
    label = str(found.get("verdict"))
    rationale = str(found.get("rationale") or "")
    if label not in choices:
        return verdicts.Verdict(None, rationale, "not_a_choice")
    return verdicts.Verdict(choices[label], rationale)


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
    task = JudgeTask(
        settings.wording(),
        settings.sampling,
        settings.n,
        settings.seed,
        settings.ties,
        settings.expected,
        settings.json_schema(),
    )
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


class Tally:
    """Judgements by kind, and why some cannot be read."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.tokens, self.last = 0, ""

    def see(self, judgements: list[Row]) -> None:
        """Count a row's judgements."""
        for each in judgements:
            kind = "pairwise" if is_pairwise(each["order"]) else "pointwise"
            key = each["reason"] or f"{each['verdict']:g}"
            self.counts.setdefault(kind, Counter())[key] += 1
            self.tokens += each["tokens"] or 0
            if each["reason"]:
                self.last = each["text"][-200:]

    @property
    def total(self) -> int:
        """All judgements."""
        return sum(count.total() for count in self.counts.values())

    @property
    def reasons(self) -> dict[str, int]:
        """Reason → unreadable judgements."""
        found: Counter[str] = Counter()
        for count in self.counts.values():
            found.update({key: n for key, n in count.items() if key in verdicts.REASONS})
        return dict(found)

    @property
    def unreadable_share(self) -> float:
        """Share of judgements without a verdict."""
        return sum(self.reasons.values()) / max(1, self.total)

    def metrics(self) -> dict[str, float]:
        """For MLflow and the manifest."""
        return {
            "judgements": self.total,
            "judgements_unreadable": sum(self.reasons.values()),
            "judgement_tokens_mean": round(self.tokens / max(1, self.total), 2),
            **{f"unreadable/{reason}": n for reason, n in self.reasons.items()},
        }

    def table(self) -> list[Row]:
        """One entry a kind: verdicts and reasons with their counts."""
        return [
            {
                "kind": kind,
                "judgements": count.total(),
                "unreadable": sum(n for key, n in count.items() if key in verdicts.REASONS),
                "verdicts": {k: n for k, n in sorted(count.items()) if k not in verdicts.REASONS},
                "reasons": {k: n for k, n in sorted(count.items()) if k in verdicts.REASONS},
            }
            for kind, count in sorted(self.counts.items())
        ]


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
)
