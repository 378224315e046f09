"""Grades of rationales by a judge, and the filter on them (arXiv 2407.14477, step 2).

    rationale ─ template(prompt, chosen, rejected, rationale, chosen_first) ─► judge
        ─► {"helpfulness": 4, "relatedness": 5, "correctness": 5, "coherence": 5}

A rationale with any grade at or below `drop_at_or_below` is dropped; a row left with none goes to
the rejects: `low_grade` (filtered) with its grades, or `unreadable_grades` (invalid) with the
judge's words when no grade could be read. An answer is read or it is not; nothing is guessed.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from rayonale import prompts
from rayonale.enrich import estimates
from rayonale.enrich.generation import GenerationSettings, Split, check_template, run_pass
from rayonale.enrich.transcript import prompt_text, response_text
from rayonale.generate import finish
from rayonale.generate.settings import Completion, Request, Sampling, row_seed
from rayonale.generate.stream import Rejection
from rayonale.records import RATIONALE, RejectKind
from rayonale.stages import Reads, Stage, StageContext, StageResult

CRITERIA = ("helpfulness", "relatedness", "correctness", "coherence")
VARIABLES = frozenset({"prompt", "chosen", "rejected", "rationale", "chosen_first"})
GRADED = "graded"  # every rationale with its grades, also the dropped ones; not in rows/
ADDS = pa.schema([("rationales", pa.list_(RATIONALE)), (GRADED, pa.list_(RATIONALE))])

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {name: {"type": "integer", "enum": [1, 2, 3, 4, 5]} for name in CRITERIA},
    "required": list(CRITERIA),
    "additionalProperties": False,
}

EXPLAINED: dict[str, Any] = {
    **SCHEMA,
    "properties": {"explanation": {"type": "string"}, **SCHEMA["properties"]},
    "required": ["explanation", *CRITERIA],
}

Row = dict[str, Any]


class GradeSettings(GenerationSettings):
    """Settings of the `grade_rationales` stage, beside those of every stage with engines.

    Attributes:
        template: prompt template with the variables prompt, chosen, rejected, rationale,
            chosen_first.
        output: `structured` makes the judge's answer a JSON object while it is drawn; `free`
            reads the last JSON object in what it writes.
        explain: the judge's object begins with an `explanation`, so that it writes down what it
            sees before it grades; structured output only.
        drop_at_or_below: a rationale with any grade this low is dropped; 0 drops none.
    """

    splits: tuple[Split, ...] = ("train", "validation", "test")
    template: str = "tinyworld/grade_rationale"
    output: Literal["structured", "free"] = "structured"
    explain: bool = False
    drop_at_or_below: int = Field(default=3, ge=0, le=4)
    sampling: Sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=128)

    @model_validator(mode="after")
    def _explain_structured(self) -> GradeSettings:
        if self.explain and self.output == "free":
            raise ValueError(
                "explain: only structured output has a place for it; a free answer is what the "
                "template asks for"
            )
        return self

    def json_schema(self) -> dict[str, Any] | None:
        """What the judge's answer must conform to."""
        if self.output == "free":
            return None
        return EXPLAINED if self.explain else SCHEMA


@dataclass(frozen=True)
class GradeTask:
    """The pass over pairs with rationales; see `rayonale.generate.stream.Task`."""

    template_text: str
    template: str
    settings: GradeSettings
    sampling: Sampling
    json_schema: dict[str, Any] | None
    adds: pa.Schema = ADDS

    def requests(self, row: Row) -> list[Request] | Rejection | None:
        if row["split"] not in self.settings.splits or not row["rationales"]:
            return None
        return [self._request(row, i) for i in range(len(row["rationales"]))]

    def _request(self, row: Row, i: int) -> Request:
        rationale = row["rationales"][i]
        text = prompts.render_text(
            self.template_text,
            where=self.template,
            prompt=prompt_text(row["prompt"]),
            chosen=response_text(row["chosen"]),
            rejected=response_text(row["rejected"]),
            rationale=rationale["text"],
            chosen_first=rationale["chosen_first"],
        )
        seed = row_seed(self.settings.seed, row["id"], i)
        return Request([{"role": "user", "content": text}], seed)

    def collect(self, row: Row, completions: list[Completion]) -> Row | Rejection:
        if not completions:
            return {"rationales": row["rationales"] or [], GRADED: []}
        graded = [
            {**rationale, "grades": read_grades(each.text)}
            for rationale, each in zip(row["rationales"], completions, strict=True)
        ]
        limit = self.settings.drop_at_or_below
        readable = [each for each in graded if each["grades"] is not None]
        kept = [each for each in readable if min(each["grades"].values()) > limit]
        if not readable:
            texts = json.dumps([each.text for each in completions], ensure_ascii=False)
            return Rejection(
                RejectKind.INVALID,
                "unreadable_grades",
                f"expected a JSON object with {', '.join(CRITERIA)} from 1 to 5, found {texts}",
            )
        # Rows below the limit become rejects when the pass is split, where they are tallied.
        return {"rationales": kept, GRADED: graded}


def read_grades(text: str) -> dict[str, int] | None:
    """The four grades in the last JSON object of a text, or None when they cannot be read.

    Raw grades may be whole numbers or their digits as a string ("4"); anything else, a missing
    criterion or a number outside 1–5 makes the answer unreadable. Further keys are allowed.
    """
    found = last_object(text)
    if found is None:
        return None
    grades = {name: _grade(found.get(name)) for name in CRITERIA}
    if any(grade is None for grade in grades.values()):
        return None
    return {name: grade for name, grade in grades.items() if grade is not None}


def last_object(text: str) -> dict[str, Any] | None:
    """The last outermost JSON object in a text, or None."""
    decoder, at, last = json.JSONDecoder(), 0, None
    while (at := text.find("{", at)) >= 0:
        try:
            value, at = decoder.raw_decode(text, at)
            last = value
        except (ValueError, RecursionError):
            at += 1
    return last


def _grade(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and value.strip() in ("1", "2", "3", "4", "5"):
        return int(value)
    if isinstance(value, (int, float)) and value in (1, 2, 3, 4, 5):
        return int(value)
    return None


def run(context: StageContext, settings: GradeSettings) -> StageResult:
    """Grade, drop, then split into rows and rejects."""
    task = GradeTask(
        prompts.source(settings.template),
        settings.template,
        settings,
        settings.sampling,
        settings.json_schema(),
    )
    report, work = run_pass(context, settings, task, context.rows())
    tally = _Tally()

    def change(row: Row) -> Row | Rejection:
        graded = row.pop(GRADED)
        tally.see(graded, row["rationales"])
        if graded and not row["rationales"]:
            grades = json.dumps([each["grades"] for each in graded])
            return Rejection(
                RejectKind.FILTERED,
                "low_grade",
                f"every rationale has a grade of {settings.drop_at_or_below} or less: {grades}",
            )
        return row

    rows_out, rejects = finish.split(work, context.out, change, without=(GRADED,))
    return StageResult(
        rows_in=report.rows,
        rows_out=rows_out,
        rejects=rejects,
        metrics={**report.metrics(), **tally.metrics()},
        details={"grades": tally.histograms()},
        prompts=[settings.template],
    )


class _Tally:
    """Grades before the filter, by criterion."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[int]] = {name: Counter() for name in CRITERIA}
        self.graded = self.unreadable = self.kept = 0

    def see(self, graded: list[Row], kept: list[Row]) -> None:
        self.kept += len(kept) if graded else 0
        for each in graded:
            self.graded += 1
            if each["grades"] is None:
                self.unreadable += 1
                continue
            for name in CRITERIA:
                self.counts[name][each["grades"][name]] += 1

    def metrics(self) -> dict[str, float]:
        """Means over all readable grades, before the filter."""
        read = self.graded - self.unreadable
        means = {
            f"grade_{name}_mean": round(sum(g * n for g, n in count.items()) / max(1, read), 4)
            for name, count in self.counts.items()
            if read
        }
        return {
            **means,
            "rationales_graded": self.graded,
            "rationales_unreadable": self.unreadable,
            "rationales_kept": self.kept,
        }

    def histograms(self) -> dict[str, dict[str, int]]:
        """criterion → grade → number of rationales, before the filter."""
        return {
            name: {str(grade): count[grade] for grade in range(1, 6)}
            for name, count in self.counts.items()
        }


STAGE = Stage(
    kind="grade_rationales",
    settings=GradeSettings,
    run=run,
    reads={
        "rows": Reads("rows", ("id", "split", "prompt", "chosen", "rejected", "rationales")),
        "model": Reads("model", optional=True),
    },
    adds=("rationales",),
    sources=lambda settings: [f"prompt:{settings.template}"],
    validate=lambda settings: check_template(settings.template, VARIABLES),
    estimate=estimates.grades,
)
