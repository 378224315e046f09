"""Stage `judgement_examples`: judgements as examples to learn from, for the `sft` loss.

given     the judgement that came with the data (a teacher's)        SFT of judges
correct   one of the judge's own N whose verdict is the label's      best-of-N, rejection sampling

{"responses": […], "label": 3, "judgements": [{"rationale": "Kind 5, …", "verdict": 3}]}
    → {"prompt": [user "… Judge the response …"], "chosen": [assistant "Kind 5, … [RESULT] 3"]}
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import model_validator

from rayonale import storage
from rayonale.data import ids
from rayonale.data.left_out import LeftOut, counts, reject
from rayonale.enrich import judge_estimates
from rayonale.enrich.generation import check_template
from rayonale.enrich.judgement_prompts import PAIRWISE, POINTWISE, Shown, Wording, wording
from rayonale.evaluate.verdicts import MARKER
from rayonale.records import PAIR, REJECT, Message, RejectKind
from rayonale.stages import Reads, Settings, Stage, StageContext, StageResult

Row = dict[str, Any]


class JudgementExampleSettings(Settings):
    """Settings of `judgement_examples`.

    Attributes:
        take: `given`, or `correct`: the first of a judge's readable judgements that has the label.
        rationale: false leaves the verdict alone, with its marker: a judge without rationales.
        pointwise, pairwise, show: as in the `judge` stage; of given judgements only (the judge's
            own keep the prompt that they answered).
    """

    take: Literal["given", "correct"] = "given"
    rationale: bool = True
    pointwise: str = "judge_rubric"
    pairwise: str = "judge_rubric_pairwise"
    show: tuple[Shown, ...] = ("rubric", "reference")

    @model_validator(mode="after")
    def _own_judgements_have_a_prompt(self) -> JudgementExampleSettings:
        ignored = sorted({"pointwise", "pairwise", "show"} & self.model_fields_set)
        if self.take == "correct" and ignored:
            raise ValueError(
                f"{', '.join(ignored)}: with take: correct a judgement keeps the prompt that it "
                "answered; leave it out"
            )
        return self


def examples_of(row: Row, settings: JudgementExampleSettings, words: Wording) -> list[Row]:
    """One example of a row.

    Raises:
        LeftOut: the row has no judgement to learn from.
    """
    readable = [each for each in row["judgements"] or () if each["verdict"] is not None]
    if not readable:
        raise LeftOut(RejectKind.INVALID, "no_judgement", "no judgement with a verdict")
    if settings.take == "correct":
        readable = [each for each in readable if each["verdict"] == row["label"]]
        if not readable:
            raise LeftOut(
                RejectKind.FILTERED, "none_correct", f"no judgement has the label {row['label']}"
            )
    judgement = readable[0]
    order = judgement["order"]
    prompt = prompt_of(row, order) if settings.take == "correct" else words.render(row, order)
    told = 3.0 - judgement["verdict"] if order == "ba" else judgement["verdict"]
    rationale = judgement["rationale"].strip() if settings.rationale else ""
    text = f"{rationale} {MARKER} {told:g}".strip()
    metadata = {"input": row["id"], "label": row["label"], "order": order}
    return [
        {
            **{name: row.get(name) for name in PAIR.names},
            "id": ids.key_of(f"{row['id']} example {order}").hex(),
            "prompt": [Message(role="user", content=prompt)],
            "chosen": [Message(role="assistant", content=text)],
            "rejected": None,
            "score_chosen": judgement["verdict"],
            "metadata": json.dumps(metadata),
        }
    ]


def prompt_of(row: Row, order: str | None) -> str:
    """The prompt that a row's judgements in an order answer."""
    return str(next(each["text"] for each in row["judge_prompts"] if each["order"] == order))


def run(context: StageContext, settings: JudgementExampleSettings) -> StageResult:
    """Turn judgements into examples.

    Raises:
        ValueError: `take: correct` on rows that no judge stage gave.
    """
    names = storage.schema(context.rows()).names
    if settings.take == "correct" and "judge_prompts" not in names:
        raise ValueError(
            f"stages.{context.name}.take: 'correct' needs rows of a judge stage (column "
            f"judge_prompts); found {', '.join(names)}"
        )
    words = wording(settings.pointwise, settings.pairwise, show=settings.show, orders="ab")
    rejects: list[Any] = []
    read = 0

    def rows() -> Iterator[Row]:
        nonlocal read
        for row in storage.read_rows(context.rows()):
            read += 1
            try:
                yield from examples_of(row, settings, words)
            except LeftOut as left_out:
                rejects.append(reject(row, left_out.kind, left_out.reason, str(left_out)))

    written = storage.write_rows(storage.join(context.out, storage.ROWS), rows(), PAIR)
    storage.write_rows(storage.join(context.out, storage.REJECTS), iter(rejects), REJECT)
    used = [] if settings.take == "correct" else [settings.pointwise, settings.pairwise]
    return StageResult(rows_in=read, rows_out=written, rejects=counts(rejects), prompts=used)


def validate(settings: JudgementExampleSettings) -> list[str]:
    """Messages about templates that ask for what they are not given."""
    told = [("pointwise", POINTWISE), ("pairwise", PAIRWISE)]
    return [
        message.replace("template:", f"{name}:", 1)
        for name, known in told
        for message in check_template(getattr(settings, name), known)
    ]


STAGE = Stage(
    kind="judgement_examples",
    settings=JudgementExampleSettings,
    run=run,
    reads={"rows": Reads("rows", ("id", "split", "prompt", "responses", "label", "judgements"))},
    adds=("prompt", "chosen", "rejected"),
    sources=lambda settings: [f"prompt:{settings.pointwise}", f"prompt:{settings.pairwise}"],
    validate=validate,
    estimate=judge_estimates.judgement_examples,
)
