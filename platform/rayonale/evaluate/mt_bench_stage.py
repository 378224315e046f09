"""The `mt_bench` stage: answers graded one by one, or compared in pairs, by a judge.

questions ─┬─ answers (files, `answers` stages) ─► judge ─► judgments/*.jsonl (as FastChat)
references ┘                                        └─► rows/ ─► scores by turn and category,
judgments on disk ─────────────────────────────────►           or wins, with intervals
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from rayonale import storage
from rayonale.enrich.generation import check_template
from rayonale.evaluate import mt_bench, mt_bench_tables
from rayonale.evaluate.asking import Asked, ask
from rayonale.evaluate.benchmark_files import (
    Answers,
    Question,
    own_id,
    read_answers,
    read_lines,
    read_questions,
)
from rayonale.evaluate.benchmark_files import files as files_of
from rayonale.evaluate.benchmark_stage import (
    answered,
    counted,
    gather_answers,
    known_model,
    seen_files,
    stop_when_unreadable,
)
from rayonale.evaluate.summary import reject
from rayonale.generate.stream import STATUS_COLUMN
from rayonale.records import REJECT, Message, RejectKind
from rayonale.stages import Reads, Settings, Stage, StageContext, StageResult

Row = dict[str, Any]

ROWS = pa.schema(
    [
        ("id", pa.string()),  # <model>[_vs_<other>]/<question>/<turn>
        ("question_id", pa.string()),
        ("category", pa.string()),
        ("turn", pa.int64()),
        ("model", pa.string()),
        ("other", pa.string()),  # of a pair
        ("score", pa.float64()),  # a grade, 1 … 10
        ("winner_1", pa.string()),  # model_1 | model_2 | tie, with the model shown first
        ("winner_2", pa.string()),  # the same with the other shown first
        ("text_1", pa.string()),
        ("text_2", pa.string()),
    ]
)
_NEEDED = {
    "single": ("question_id", "model", "turn", "score"),
    "pair": ("question_id", "model_1", "model_2", "g1_winner", "g2_winner", "turn"),
}


class MtBenchSettings(Settings):
    """Settings of the `mt_bench` stage.

    Attributes:
        questions: question.jsonl.
        mode: `single` grades each answer 1 … 10; `pair` compares two models' in both orders.
        answers: files or folders of published answers, beside the `answers` stages read.
        references: file of right answers; the judge sees them for math, reasoning and coding.
        judge: who judges here.
        judgments: judgments on disk instead (a file, or a folder of them).
        prompts: judge prompts in FastChat's layout, in place of the project's own.
        template: another prompt with the variables of the project's own.
        baseline: pairs are of every other model with this one; None compares all pairs.
        limit: at most so many questions, the first in the file.
        level, seed: of the bootstrap intervals over questions.
        max_unreadable: share of judgments that may be unreadable before the stage stops.
    """

    questions: str = Field(min_length=1)
    mode: Literal["single", "pair"] = "single"
    answers: tuple[str, ...] = ()
    references: str | None = None
    judge: Asked | None = None
    judgments: str | None = None
    prompts: str | None = None
    template: str | None = None
    baseline: str | None = None
    limit: int | None = Field(None, ge=1)
    level: float = Field(0.95, gt=0, lt=1)
    seed: int = 0
    max_unreadable: float = Field(0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _choices_fit(self) -> MtBenchSettings:
        if (self.judge is None) == (self.judgments is None):
            raise ValueError("expected either a judge or judgments")
        ignored = [
            name for name in ("answers", "references", "prompts", "template") if getattr(self, name)
        ]
        if self.judgments and ignored:
            raise ValueError(f"judgments are made already: {', '.join(ignored)} would be ignored")
        if self.prompts and self.template:
            raise ValueError("prompts and template exclude each other: give one")
        if self.baseline and self.mode == "single":
            raise ValueError("baseline with mode: single, which compares nothing")
        return self

    @property
    def asked_with(self) -> str:
        """The project's template that the judge is asked with."""
        return self.template or mt_bench.TEMPLATES[self.mode]


def run(context: StageContext, settings: MtBenchSettings) -> StageResult:
    """Judge (or read judgments), then the tables.

    Raises:
        ValueError: no answers, no reference where one is needed, too many unreadable judgments.
    """
    questions = read_questions(settings.questions)[: settings.limit]
    facts: list[Row] = []
    if settings.judge is None:
        judged, rejects = _read(settings, questions), list[Row]()
    else:
        plan = _planned(context, settings, questions)
        answers, fact = ask(context, settings.judge, _asked(plan))
        judged, rejects = [], [row for row in plan if "kind" in row]
        for answer, item in zip(answers, (row for row in plan if "id" in row and "prompts" in row),
                                strict=True):  # fmt: skip
            row, refused = _judged(item, answer)
            judged.append(row)
            rejects += [refused] if refused else []
        facts = [{**fact, "prompts": settings.prompts or "own"}]
        _write_published(context, settings, judged)
    readable = [row for row in judged if mt_bench_tables.is_readable(row)]
    stop_when_unreadable(facts[0]["judge"] if facts else "judgments", len(readable),
                         rejects, settings.max_unreadable)  # fmt: skip
    columns = ({name: row.get(name) for name in ROWS.names} for row in readable)
    storage.write_rows(storage.join(context.out, storage.ROWS), columns, ROWS)
    storage.write_rows(storage.join(context.out, storage.REJECTS), iter(rejects), REJECT)
    tables = (mt_bench_tables.grades if settings.mode == "single" else mt_bench_tables.wins)(
        judged, level=settings.level, seed=settings.seed
    )
    unread = len(judged) - len(readable)
    of_files = {"invalid": {"unreadable": unread}} if settings.judge is None and unread else {}
    return StageResult(
        rows_in=len(readable) + (len(rejects) or unread),
        rows_out=len(readable),
        rejects=counted(rejects) or of_files,
        metrics=mt_bench_tables.metrics(tables),
        details={**tables, "judges": facts},
        prompts=[] if settings.judge is None or settings.prompts else [settings.asked_with],
    )  # fmt: skip


def _planned(
    context: StageContext, settings: MtBenchSettings, questions: Sequence[Question]
) -> list[Row]:
    """What is asked (with `prompts`) and what cannot be (rejects), in order."""
    answers = gather_answers(context, settings.answers)
    references = _references(settings, questions)
    published = mt_bench.read_prompts(settings.prompts) if settings.prompts else None
    plan: list[Row] = []
    for models in _contests(answers, settings):
        for question in questions:
            for turn in range(1, len(question.turns) + 1):
                item = _item(question, turn, models)
                lacking = [m for m in models if not answered(question, answers[m].get(question.id))]
                if lacking:
                    why = f"{', '.join(lacking)}: no answer to every turn of {question.id}"
                    plan.append(reject(item, RejectKind.FILTERED, "no_answer", why))
                    continue
                orders = [models] if len(models) == 1 else [models, models[::-1]]
                prompts = [
                    mt_bench.judge_messages(
                        question, [answers[m][question.id] for m in order], turn,
                        reference=references.get(question.id), published=published,
                        template=settings.template,
                    )
                    for order in orders
                ]  # fmt: skip
                name = settings.asked_with
                if published:
                    name = mt_bench.prompt_name(settings.mode, turn, question.id in references)
                plan.append({**item, "prompts": prompts, "prompt": name})
    if not plan:
        raise ValueError(
            f"stages.{context.name}: answers of {len(answers)} model(s); expected one or more to "
            "grade, two or more to compare"
        )
    return plan


def _references(
    settings: MtBenchSettings, questions: Sequence[Question]
) -> Mapping[str, tuple[str, ...]]:
    """Question → right answers, of the categories that are judged with them."""
    needed = [question for question in questions if question.category in mt_bench.REFERENCED]
    if not needed:
        return {}
    if settings.references is None:
        categories = ", ".join(sorted({question.category for question in needed}))
        raise ValueError(
            f"references: missing; questions of {categories} are judged beside right answers"
        )
    by_model = read_answers(settings.references)
    if len(by_model) != 1:
        raise ValueError(f"{settings.references}: answers of {len(by_model)} models; expected one")
    (found,) = by_model.values()
    if missing := [question.id for question in needed if question.id not in found]:
        raise ValueError(f"{settings.references}: no answer to question {missing[0]}")
    return {question.id: found[question.id] for question in needed}


def _contests(answers: Answers, settings: MtBenchSettings) -> Iterator[tuple[str, ...]]:
    if settings.mode == "single":
        yield from ((model,) for model in answers)
    elif settings.baseline is None:
        yield from combinations(answers, 2)
    else:
        base = known_model(settings.baseline, answers, "baseline")
        yield from ((model, base) for model in answers if model != base)


def _item(question: Question, turn: int, models: tuple[str, ...]) -> Row:
    return {
        "id": f"{'_vs_'.join(models)}/{question.id}/{turn}",
        "question_id": question.id,
        "category": question.category,
        "turn": turn,
        "model": models[0],
        "other": models[1] if len(models) > 1 else None,
    }


def _asked(plan: Sequence[Row]) -> Iterator[Row]:
    for row in plan:
        if "prompts" in row:
            yield {"id": row["id"], "prompts": row["prompts"]}


def _judged(item: Row, answer: Row) -> tuple[Row, Row | None]:
    """(judgment, reject or None) of a judge's texts."""
    row: Row = {**item}
    if (status := answer[STATUS_COLUMN]) is not None:
        shown = {name: value for name, value in item.items() if name != "prompts"}
        kind = RejectKind(status["kind"])
        return row, reject(shown, kind, status["reason"], status["detail"])
    reasons: list[tuple[str, str]] = []
    for number, (text, ended) in enumerate(
        zip(answer["texts"], answer["finish_reasons"], strict=True), 1
    ):
        row[f"text_{number}"] = text
        told: Any
        if item["other"] is None:
            told, reason = mt_bench.read_grade(text)
            row["score"] = told
        else:
            letter, reason = mt_bench.read_winner(text)
            row[f"winner_{number}"] = _winner(letter, swapped=number == 2)
        if reason is not None:
            cut = ended == "length" and reason == "no_marker"
            reasons.append(("unreadable_cut_off" if cut else f"unreadable_{reason}", text))
    if not reasons:
        return row, None
    expected = "one grade such as [[5]]" if item["other"] is None else "[[A]], [[B]] or [[C]]"
    detail = f"found {reasons[0][1][-200:]!r}, expected {expected}"
    shown = {name: value for name, value in row.items() if name != "prompts"}
    return row, reject(shown, RejectKind.INVALID, reasons[0][0], detail)


def _winner(letter: str | None, swapped: bool) -> str | None:
    """What a letter says of the models; None of an unreadable text."""
    if letter is None or letter == "C":
        return "tie" if letter else None
    return "model_1" if (letter == "A") != swapped else "model_2"


def _read(settings: MtBenchSettings, questions: Sequence[Question]) -> list[Row]:
    """Judgments on disk, as rows."""
    known = {question.id: question.category for question in questions}
    found = []
    for file in files_of(str(settings.judgments)):
        for where, told in read_lines(file, _NEEDED[settings.mode]):
            question = str(told["question_id"])
            if question not in known:
                if settings.limit is None:
                    raise ValueError(f"{where}: question {question} is not in {settings.questions}")
                continue
            models = (told["model"],) if settings.mode == "single" else (
                told["model_1"], told["model_2"])  # fmt: skip
            if settings.baseline not in (None, *models):
                continue
            item = _item(Question(question, known[question], ()), int(told["turn"]), models)
            winners = [told.get(f"g{n}_winner") for n in (1, 2)]
            found.append(
                item
                | {"score": None if told.get("score") in (None, -1) else float(told["score"])}
                | {f"winner_{n}": w if w in ("model_1", "model_2", "tie") else None
                   for n, w in enumerate(winners, 1)}
                | {"text_1": told.get("judgment", told.get("g1_judgment")),
                   "text_2": told.get("g2_judgment")}
            )  # fmt: skip
    if not found:
        raise ValueError(f"{settings.judgments}: no judgments of these questions")
    return found


def _write_published(
    context: StageContext, settings: MtBenchSettings, judged: Sequence[Row]
) -> None:
    """The judgments as FastChat writes them: unreadable is −1, or the winner `error`."""
    assert settings.judge is not None
    lines = []
    for row in judged:
        common = {"question_id": own_id(row["question_id"]), "turn": row["turn"],
                  "judge": [settings.judge.name, row["prompt"]]}  # fmt: skip
        texts: list[list[Message]] = row["prompts"]
        if settings.mode == "single":
            score = row.get("score")
            line = common | {"model": row["model"], "user_prompt": texts[0][-1]["content"],
                             "judgment": row.get("text_1"),
                             "score": -1 if score is None else score}  # fmt: skip
        else:
            line = common | {"model_1": row["model"], "model_2": row["other"]}
            for n in (1, 2):
                line |= {f"g{n}_winner": row.get(f"winner_{n}") or "error",
                         f"g{n}_judgment": row.get(f"text_{n}"),
                         f"g{n}_user_prompt": texts[n - 1][-1]["content"]}  # fmt: skip
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    name = f"{settings.judge.name}_{settings.mode}.jsonl"
    storage.write_bytes(storage.join(context.out, "judgments", name), "".join(lines).encode())


STAGE = Stage(
    kind="mt_bench",
    settings=MtBenchSettings,
    run=run,
    reads={
        "policies": Reads("rows", ("id", "answers"), many=True, optional=True),
        "judge_model": Reads("model", optional=True),
    },
    adds=tuple(ROWS.names),
    sources=lambda settings: [] if settings.judge is None or settings.prompts
    else [f"prompt:{settings.asked_with}"],
    validate=lambda settings: check_template(settings.asked_with, mt_bench.VARIABLES),
    external_inputs=lambda s: seen_files(
        s.questions, s.answers, s.references, s.judgments, s.prompts
    ),
)  # fmt: skip
