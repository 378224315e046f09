"""Rationales: why the chosen response of a pair is preferred (arXiv 2407.14477, step 1).

    pair ─ template(prompt, chosen, rejected, chosen_first) ─► model ─► n rationales
                                                      + column `rationales`, a list of RATIONALE

Rows of other splits than `splits` pass through with an empty list. Controls of the paper:
`permuted` gives each row the rationales of another row of its split, `reversed` asks the model
to explain the opposite preference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import xxhash
from pydantic import Field

from rayonale import prompts
from rayonale.enrich import estimates
from rayonale.enrich.generation import (
    GenerationSettings,
    check_template,
    greedy_repeats,
    run_pass,
)
from rayonale.enrich.transcript import prompt_text, response_text
from rayonale.generate import finish
from rayonale.generate.settings import Completion, Request, Sampling, row_seed
from rayonale.generate.stream import STATUS_COLUMN, Rejection
from rayonale.records import RATIONALE, RejectKind
from rayonale.stages import Reads, Stage, StageContext, StageResult

COLUMN = "rationales"
ADDS = pa.schema([(COLUMN, pa.list_(RATIONALE))])
VARIABLES = frozenset({"prompt", "chosen", "rejected", "chosen_first"})

Row = dict[str, Any]


class RationaleSettings(GenerationSettings):
    """Settings of the `rationales` stage, beside those of every stage with engines.

    Attributes:
        template: prompt template with the variables prompt, chosen, rejected, chosen_first.
        n: rationales drawn for a row, each with a seed of its own.
        order: which response the prompt shows first: `chosen` always, or `shuffled` by a hash of
            seed and row id. Each rationale records it as `chosen_first`.
        control: `none`, or one of the paper's controls (see the module).
    """

    template: str = "tinyworld/rationale_general"
    n: int = Field(default=1, ge=1)
    order: Literal["chosen", "shuffled"] = "chosen"
    control: Literal["none", "permuted", "reversed"] = "none"
    sampling: Sampling = Sampling(temperature=1.0, top_p=0.95, max_tokens=256)


@dataclass(frozen=True)
class RationaleTask:
    """The pass over pairs; see `rayonale.generate.stream.Task`."""

    template_text: str
    template: str
    settings: RationaleSettings
    sampling: Sampling
    json_schema: dict[str, Any] | None = None
    adds: pa.Schema = ADDS

    def requests(self, row: Row) -> list[Request] | Rejection | None:
        if row["split"] not in self.settings.splits:
            return None
        chosen, rejected = response_text(row["chosen"]), response_text(row["rejected"])
        if self.settings.control == "reversed":
            chosen, rejected = rejected, chosen
        text = prompts.render_text(
            self.template_text,
            where=self.template,
            prompt=prompt_text(row["prompt"]),
            chosen=chosen,
            rejected=rejected,
            chosen_first=chosen_first(self.settings, row["id"]),
        )
        return [
            Request([{"role": "user", "content": text}], row_seed(self.settings.seed, row["id"], i))
            for i in range(self.settings.n)
        ]

    def collect(self, row: Row, completions: list[Completion]) -> Row | Rejection:
        first = chosen_first(self.settings, row["id"])
        if self.settings.control == "reversed":  # the prompt showed the two exchanged
            first = not first
        found = [
            {
                "text": each.text.strip(),
                "style": style_of(self.template),
                "chosen_first": first,
                "seed": row_seed(self.settings.seed, row["id"], i),
                "tokens": each.tokens,
                "finish_reason": each.finish_reason,
                "grades": None,
            }
            for i, each in enumerate(completions)
            if each.text.strip()
        ]
        if completions and not found:
            return Rejection(
                RejectKind.INVALID, "empty_rationale", f"{len(completions)} sample(s), no text"
            )
        return {COLUMN: found}


def chosen_first(settings: RationaleSettings, row_id: str) -> bool:
    """Whether a row's prompt shows the chosen response first."""
    if settings.order == "chosen":
        return True
    return xxhash.xxh3_64_intdigest(f"order:{settings.seed}:{row_id}".encode()) % 2 == 0


def style_of(template: str) -> str:
    """`general` for rationale_general in any name space, else the template's own name."""
    name = template.rsplit("/", 1)[-1].removesuffix(".jinja")
    return name.removeprefix("rationale_")


def derangement(ids: list[str], seed: int) -> list[int]:
    """For each position another one, no position its own: the order of a seeded hash, moved on by
    one. A single row has no other and keeps its own place."""
    order = sorted(
        range(len(ids)),
        key=lambda i: (xxhash.xxh3_64_intdigest(f"permute:{seed}:{ids[i]}".encode()), i),
    )
    target = [0] * len(ids)
    for here, there in zip(order, order[1:] + order[:1], strict=True):
        target[here] = there
    return target


def permuted(work: str, seed: int) -> dict[str, Any]:
    """id → the rationales of another row of its split, among rows that have any.

    Holds all rationales in memory: a control for experiments, not for the largest data.

    Raises:
        ValueError: a split has a single row, which no other can lend its rationales to.
    """
    splits: dict[str, list[tuple[str, Any]]] = {}
    for row in finish.finished(work, ["id", "split", COLUMN, STATUS_COLUMN]):
        if row[STATUS_COLUMN] is None and row[COLUMN]:
            splits.setdefault(row["split"], []).append((row["id"], row[COLUMN]))
    given: dict[str, Any] = {}
    for split, held in splits.items():
        if len(held) == 1:
            raise ValueError(
                f"control 'permuted': split {split!r} has one row with rationales; expected "
                "two or more, so that each can be given another's"
            )
        for (row_id, _), there in zip(
            held, derangement([row_id for row_id, _ in held], seed), strict=True
        ):
            given[row_id] = held[there][1]
    return given


def run(context: StageContext, settings: RationaleSettings) -> StageResult:
    """Generate, then split into rows and rejects."""
    task = RationaleTask(
        prompts.source(settings.template), settings.template, settings, settings.sampling
    )
    report, work = run_pass(context, settings, task, context.rows())
    given = permuted(work, settings.seed) if settings.control == "permuted" else None
    tally = _Tally()

    def change(row: Row) -> Row:
        if given is not None and row["id"] in given:
            row = {**row, COLUMN: given[row["id"]]}
        tally.see(row)
        return row

    rows_out, rejects = finish.split(work, context.out, change)
    return StageResult(
        rows_in=report.rows,
        rows_out=rows_out,
        rejects=rejects,
        metrics={**report.metrics(), **tally.metrics(settings.n)},
        prompts=[settings.template],
    )


class _Tally:
    """Counts over the rows that go on."""

    def __init__(self) -> None:
        self.rows = self.rationales = self.tokens = self.cut = 0

    def see(self, row: Row) -> None:
        found = row[COLUMN]
        self.rows += bool(found)
        self.rationales += len(found)
        self.tokens += sum(each["tokens"] for each in found)
        self.cut += sum(each["finish_reason"] == "length" for each in found)

    def metrics(self, n: int) -> dict[str, float]:
        return {
            "rationales": self.rationales,
            "rationales_empty": self.rows * n - self.rationales,
            "rationales_cut_off": self.cut,
            "rationale_tokens_mean": round(self.tokens / max(1, self.rationales), 2),
        }


def _validate(settings: RationaleSettings) -> list[str]:
    told = check_template(settings.template, VARIABLES)
    shows_order = told or "chosen_first" in prompts.variables(settings.template)
    if settings.order == "shuffled" and not shows_order:
        told.append(
            f"order: 'shuffled' has no effect: {settings.template!r} does not use chosen_first"
        )
    return [*told, *greedy_repeats(settings.n, settings.sampling)]


STAGE = Stage(
    kind="rationales",
    settings=RationaleSettings,
    run=run,
    reads={
        "rows": Reads("rows", ("id", "split", "prompt", "chosen", "rejected")),
        "model": Reads("model", optional=True),
    },
    adds=(COLUMN,),
    sources=lambda settings: [f"prompt:{settings.template}"],
    validate=_validate,
    estimate=estimates.rationales,
)
