"""The `arena_hard` stage: models against a baseline, in both orders, rated.

questions ─┬─ answers (files, `answers` stages) ─► judge ─► judgments/<model>.jsonl
baseline ──┘                                          └─► Bradley-Terry ratings ─► rows/
judgments on disk ───────────────────────────────────►    separability, agreement
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from rayonale import prompts, storage
from rayonale.enrich.generation import check_template
from rayonale.evaluate import arena_hard, bradley_terry
from rayonale.evaluate.asking import Asked, ask
from rayonale.evaluate.benchmark_files import (
    Answers,
    Question,
    file_name,
    own_id,
    read_lines,
    read_questions,
)
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

_NUMBERS = ("rating", "low", "high", "win_rate", "win_low", "win_high", "battles", "length")
ROWS = pa.schema([("id", pa.string()), *((name, pa.float64()) for name in _NUMBERS)])


class ArenaHardSettings(Settings):
    """Settings of the `arena_hard` stage.

    Attributes:
        baseline: the model that all others are compared with; it has the rating 1000.
        questions: question.jsonl; may be left out with judgments.
        answers: files or folders of published answers, beside the `answers` stages read.
        judge: who judges here.
        judgments: judgments on disk instead (a file, or a folder of them).
        template: prompt with variables question, answer_a, answer_b.
        reference: lines of {"model", "low", "high", "rating"?}: another ranking (Chatbot Arena's,
            say) whose intervals ours are compared with.
        strong: plain battles that a strong verdict counts for, as published 3.
        rounds, level, seed: of the bootstrap.
        resample: `unit` draws whole questions; `battle` single battles, as published.
        limit: at most so many questions, the first in the file.
        max_unreadable: share of questions that may be unreadable before the stage stops.
    """

    baseline: str = Field(min_length=1)
    questions: str | None = None
    answers: tuple[str, ...] = ()
    judge: Asked | None = None
    judgments: str | None = None
    template: str = arena_hard.TEMPLATE
    reference: str | None = None
    strong: float = Field(arena_hard.STRONG, gt=0)
    rounds: int = Field(100, ge=1)
    resample: Literal["unit", "battle"] = "unit"
    level: float = Field(0.95, gt=0, lt=1)
    seed: int = 0
    limit: int | None = Field(None, ge=1)
    max_unreadable: float = Field(0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _choices_fit(self) -> ArenaHardSettings:
        if (self.judge is None) == (self.judgments is None):
            raise ValueError("expected either a judge or judgments")
        if self.judge is not None and self.questions is None:
            raise ValueError("a judge without questions")
        if self.judgments and self.limit is not None:
            raise ValueError("limit with judgments, which are taken whole")
        return self


def run(context: StageContext, settings: ArenaHardSettings) -> StageResult:
    """Judge (or read judgments), then rate.

    Raises:
        ValueError: no answers of the baseline, nothing to compare with it, or too many unreadable.
    """
    questions = read_questions(settings.questions)[: settings.limit] if settings.questions else []
    answers = gather_answers(context, settings.answers)
    rejects: list[Row] = []
    facts: list[Row] = []
    if settings.judge is None:
        judgments = arena_hard.read_judgments(str(settings.judgments))
    else:
        judgments, rejects, fact = _judged(context, settings, questions, answers)
        facts = [fact]
        stop_when_unreadable(settings.judge.name, len(judgments), rejects, settings.max_unreadable)
    details: dict[str, Any] = {"arena_hard": [], "judges": facts, "baseline": settings.baseline}
    lost: dict[str, int] = {}
    if judgments:
        table, lost = _rated(judgments, settings)
        details |= {"arena_hard": _rows(table, answers, questions), **_compared(table, settings)}
        details["clusters"] = list(arena_hard.clusters(questions, judgments)) if questions else []
    storage.write_rows(storage.join(context.out, storage.ROWS), _columns(details), ROWS)
    storage.write_rows(storage.join(context.out, storage.REJECTS), iter(rejects), REJECT)
    of_files = {"invalid": {f"unreadable_{why}": n for why, n in lost.items()}} if lost else {}
    refused = len(rejects) or sum(lost.values())
    return StageResult(
        rows_in=len(judgments) + refused,
        rows_out=len(judgments),
        rejects=counted(rejects) or of_files,
        metrics=metrics(details),
        details=details,
        prompts=[settings.template] if settings.judge else [],
    )


def _judged(
    context: StageContext,
    settings: ArenaHardSettings,
    questions: Sequence[Question],
    answers: Answers,
) -> tuple[list[Row], list[Row], Row]:
    """(judgments in the published layout, rejects, facts); a question counts whole or not."""
    assert settings.judge is not None
    base = answers[known_model(settings.baseline, answers, "baseline")]
    rivals = [model for model in answers if model != settings.baseline]
    if not rivals:
        raise ValueError(f"stages.{context.name}: no answers beside those of {settings.baseline!r}")
    asked: list[Row] = []
    rejects: list[Row] = []
    for model in rivals:
        for question in questions:
            item = {"id": f"{model}/{question.id}", "model": model, "question_id": question.id}
            lacking = [name for name, given in ((model, answers[model]), (settings.baseline, base))
                       if not answered(question, given.get(question.id))]  # fmt: skip
            if lacking:
                why = f"{', '.join(lacking)}: no answer to {question.id}"
                rejects.append(reject(item, RejectKind.FILTERED, "no_answer", why))
                continue
            games = arena_hard.games(
                question, answers[model][question.id][0], base[question.id][0], settings.template
            )
            asked.append({**item, "games": games})
    texts, facts = ask(context, settings.judge, _questions(asked))
    judgments: list[Row] = []
    for item, answer in zip(asked, texts, strict=True):
        judgment, refused = _judgment(item, answer, settings.judge.name)
        if refused is not None:
            rejects.append(refused)
        else:
            judgments.append(judgment)
    for model in rivals:
        lines = [json.dumps(row, ensure_ascii=False) + "\n"
                 for row in judgments if row["model"] == model]  # fmt: skip
        where = storage.join(context.out, "judgments", file_name(model, ".jsonl"))
        storage.write_bytes(where, "".join(lines).encode())
    facts["prompt_fingerprint"] = prompts.fingerprint(settings.template)
    return judgments, rejects, facts


def _questions(asked: Sequence[Row]) -> Iterator[Row]:
    for item in asked:
        prompted = [[Message(role="user", content=text)] for text in item["games"]]
        yield {"id": item["id"], "prompts": prompted}


def _judgment(item: Row, answer: Row, judge: str) -> tuple[Row, Row | None]:
    """(judgment, None), or (what there is of it, reject) where a game is unreadable."""
    row: Row = {"question_id": own_id(item["question_id"]), "model": item["model"], "judge": judge}
    if (status := answer[STATUS_COLUMN]) is not None:
        kind = RejectKind(status["kind"])
        return row, reject(row | {"id": item["id"]}, kind, status["reason"], status["detail"])
    row["games"] = []
    problem = None
    for text, ended, asked in zip(
        answer["texts"], answer["finish_reasons"], item["games"], strict=True
    ):
        label, reason = arena_hard.read_score(text)
        row["games"].append({"user_prompt": asked, "judgment": text, "score": label})
        if reason is not None and problem is None:
            cut = ended == "length" and reason == "no_marker"
            problem = (f"unreadable_{'cut_off' if cut else reason}", text)
    if problem is None:
        return row, None
    detail = f"found {problem[1][-200:]!r}, expected one of [[A>>B]] … [[B>>A]]"
    return row, reject(row | {"id": item["id"]}, RejectKind.INVALID, problem[0], detail)


def _rated(
    judgments: Sequence[Row], settings: ArenaHardSettings
) -> tuple[list[bradley_terry.Rating], dict[str, int]]:
    battles, lost = arena_hard.battles(judgments, settings.baseline, strong=settings.strong)
    table = bradley_terry.ratings(
        battles, settings.baseline, rounds=settings.rounds, level=settings.level,
        seed=settings.seed, resample=settings.resample,
    )  # fmt: skip
    return table, lost


def _rows(
    table: Sequence[bradley_terry.Rating], answers: Answers, questions: Sequence[Question]
) -> list[Row]:
    """Ratings with each model's mean answer length in characters, where its answers were read."""
    asked = {question.id for question in questions}
    found = []
    for one in table:
        lengths = [len(turns[0]) for key, turns in answers.get(one.model, {}).items()
                   if turns and key in asked]  # fmt: skip
        found.append({**asdict(one), "length": statistics.fmean(lengths) if lengths else None})
    return found


def _compared(table: Sequence[bradley_terry.Rating], settings: ArenaHardSettings) -> Row:
    """Separability of the ratings, and how far they agree with the reference."""
    mine = {one.model: (one.win_low, one.win_high) for one in table}
    found: Row = {"separability": bradley_terry.separability(mine), "reference": settings.reference}
    if settings.reference is None:
        return found
    other, scores = {}, {}
    for where, row in read_lines(settings.reference, ("model", "low", "high")):
        if not row["low"] <= row["high"]:
            raise ValueError(f"{where}: low {row['low']} above high {row['high']}")
        other[row["model"]] = (float(row["low"]), float(row["high"]))
        scores[row["model"]] = float(row.get("rating", (row["low"] + row["high"]) / 2))
    return found | {
        "agreement": bradley_terry.agreement(mine, other),
        "rank_correlation": bradley_terry.rank_correlation(
            {one.model: one.rating for one in table}, scores
        ),
        "common_models": len(mine.keys() & other.keys()),
    }


def _columns(details: Mapping[str, Any]) -> Iterator[Row]:
    for row in details["arena_hard"]:
        yield {"id": row["model"], **{name: row[name] for name in _NUMBERS}}


def metrics(details: Mapping[str, Any]) -> dict[str, float]:
    """The tables as flat names and numbers, for MLflow and the manifest."""
    flat = {
        f"arena_hard/{row['model']}/{name}": row[name]
        for row in details["arena_hard"]
        for name in _NUMBERS
    }
    flat |= {
        f"arena_hard/{name}": details.get(name)
        for name in ("separability", "agreement", "rank_correlation")
    }
    # two models tie in every rank: there is no correlation
    return {name: float(value) for name, value in flat.items()
            if value is not None and math.isfinite(value)}  # fmt: skip


STAGE = Stage(
    kind="arena_hard",
    settings=ArenaHardSettings,
    run=run,
    reads={
        "policies": Reads("rows", ("id", "answers"), many=True, optional=True),
        "judge_model": Reads("model", optional=True),
    },
    adds=tuple(ROWS.names),
    sources=lambda settings: [f"prompt:{settings.template}"] if settings.judge else [],
    validate=lambda settings: check_template(settings.template, arena_hard.VARIABLES),
    external_inputs=lambda s: seen_files(s.questions, s.answers, s.judgments, s.reference),
)
