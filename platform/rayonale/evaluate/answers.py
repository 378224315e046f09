"""The `answers` stage: a policy's answers to a benchmark's questions, turn by turn.

question.jsonl ─ turn 1 ─► answer ─ turn 2, below the policy's own first answer ─► answer …
    ─► rows: a question, its turns, the answers      answers/<policy>.jsonl, FastChat's layout
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from rayonale import storage
from rayonale.enrich import goal_prompt
from rayonale.enrich.generation import ModelSettings, run_pass
from rayonale.evaluate.benchmark_files import file_name, own_id, read_questions
from rayonale.generate import finish
from rayonale.generate.settings import Completion, Request, Sampling, row_seed
from rayonale.generate.stream import Rejection
from rayonale.lineage import fingerprints
from rayonale.records import REJECT, Message
from rayonale.stages import Reads, Stage, StageContext, StageResult

Row = dict[str, Any]

_ANSWERS = [
    ("answers", pa.list_(pa.string())),
    ("answer_tokens", pa.list_(pa.int64())),
    ("finish_reasons", pa.list_(pa.string())),
]
ADDS = pa.schema(_ANSWERS)
ROWS = pa.schema(
    [
        ("id", pa.string()),  # the question's own id
        ("category", pa.string()),
        ("turns", pa.list_(pa.string())),
        *_ANSWERS,
    ]
)
# MT-Bench's temperatures by category (FastChat, `gen_model_answer`).
PUBLISHED_TEMPERATURES: Mapping[str, float] = {
    **dict.fromkeys(("writing", "roleplay"), 0.7),
    **dict.fromkeys(("extraction", "math", "coding", "reasoning"), 0.0),
    **dict.fromkeys(("stem", "humanities"), 0.1),
}


class AnswerSettings(ModelSettings):
    """Settings of the `answers` stage.

    Attributes:
        questions: question.jsonl of MT-Bench or Arena-Hard.
        policy: name of the policy in files and tables; default is that of what generates.
        temperatures: of a question's category; `published` is MT-Bench's choice. Categories that
            have none, Arena-Hard's among them, take `sampling.temperature`.
        limit: at most so many questions, the first in the file.
        goal: as in `samples`: of a policy that was trained with goals, by default the best.
    """

    questions: str = Field(min_length=1)
    policy: str | None = Field(None, min_length=1)
    temperatures: Literal["published"] | dict[str, float] = "published"
    limit: int | None = Field(None, ge=1)
    goal: goal_prompt.Goal | Literal["none"] | None = None
    sampling: Sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=1_024)


@dataclass(frozen=True)
class TurnTask:
    """The pass over one turn of all conversations; see `rayonale.generate.stream.Task`."""

    turn: int  # 0 is the first
    temperatures: dict[str, float]
    sampling: Sampling
    seed: int
    json_schema: dict[str, Any] | None = None
    adds: pa.Schema = ADDS
    asked: tuple[goal_prompt.GoalPrompt, goal_prompt.Goal] | None = None

    def requests(self, row: Row) -> list[Request] | Rejection | None:
        """The conversation so far, with the policy's own answers; None where it has ended."""
        if len(row["turns"]) <= self.turn:
            return None
        messages: list[Message] = []
        for asked, answered in zip(row["turns"][: self.turn], row["answers"], strict=True):
            messages.append(Message(role="user", content=asked))
            messages.append(Message(role="assistant", content=answered))
        messages.append(Message(role="user", content=row["turns"][self.turn]))
        if self.asked is not None:
            told, goal = self.asked
            messages = told.put(messages, goal)
        temperature = self.temperatures.get(row["category"])
        seed = row_seed(self.seed, row["id"], self.turn)
        return [Request(messages, seed, temperature=temperature)]

    def collect(self, row: Row, completions: list[Completion]) -> Row | Rejection:
        """The answer below the earlier ones; an empty answer is an answer."""
        return {
            "answers": [*row["answers"], *(one.text for one in completions)],
            "answer_tokens": [*row["answer_tokens"], *(one.tokens for one in completions)],
            "finish_reasons": [
                *row["finish_reasons"],
                *(one.finish_reason for one in completions),
            ],
        }


def run(context: StageContext, settings: AnswerSettings) -> StageResult:
    """Answer turn after turn, each as one pass over all conversations.

    Raises:
        ValueError: no questions, or one of them twice.
    """
    questions = read_questions(settings.questions)[: settings.limit]
    twice = len(questions) - len({question.id for question in questions})
    if not questions or twice:
        raise ValueError(f"{settings.questions}: {len(questions)} questions, {twice} of them twice")
    rows = storage.join(context.out, storage.WORK, "questions")
    empty: Row = {name: [] for name, _ in _ANSWERS}
    asked = ({"id": q.id, "category": q.category, "turns": list(q.turns)} for q in questions)
    storage.write_rows(rows, (row | empty for row in asked), ROWS)
    temperatures = settings.temperatures
    chosen = PUBLISHED_TEMPERATURES if temperatures == "published" else temperatures
    assert not isinstance(chosen, str)
    metrics: dict[str, float] = {}
    lost: list[str] = []
    counts: dict[str, dict[str, int]] = {}
    read = context.inputs.get("model")
    model = None if settings.endpoint else read.model if read is not None else settings.model
    asked_for = goal_prompt.asked(settings.goal, model, None, f"stages.{context.name}.goal")
    for turn in range(max(len(question.turns) for question in questions)):
        task = TurnTask(turn, dict(chosen), settings.sampling, settings.seed, asked=asked_for)
        report, work = run_pass(context, settings, task, rows, f"turn_{turn}")
        for name, value in report.metrics().items():
            metrics[name] = metrics.get(name, 0) + value
        part = storage.join(context.out, storage.WORK, f"answered_{turn}")
        _, rejects = finish.split(work, part)
        _add(counts, rejects)
        lost.append(storage.join(part, storage.REJECTS))
        rows = storage.join(part, storage.ROWS)
    for name in ("rows_per_second", "tokens_per_second"):
        metrics.pop(name, None)  # rates do not add up over turns
    policy = settings.policy or _named(context, settings)
    answered = list(storage.read_rows(rows))
    storage.write_rows(storage.join(context.out, storage.ROWS), iter(answered), ROWS)
    storage.write_rows(storage.join(context.out, storage.REJECTS), _all(lost), REJECT)
    written = "".join(json.dumps(line) + "\n" for line in published(answered, policy))
    name = file_name(policy, ".jsonl")
    storage.write_bytes(storage.join(context.out, "answers", name), written.encode())
    return StageResult(
        rows_in=len(questions),
        rows_out=len(answered),
        rejects=counts,
        metrics={**metrics, "answers_cut_off": _cut(answered)},
        details={"policy": policy, **({"goal": asked_for[1]} if asked_for else {})},
        raw_inputs=[fingerprints.of_file(settings.questions)],
    )


def published(rows: list[Row], policy: str) -> Iterator[Row]:
    """Answers in FastChat's layout."""
    for row in rows:
        yield {
            "question_id": own_id(row["id"]),
            "answer_id": f"{policy}/{row['id']}",
            "model_id": policy,
            "choices": [{"index": 0, "turns": row["answers"]}],
        }


def _named(context: StageContext, settings: AnswerSettings) -> str:
    if settings.endpoint is not None:
        return settings.endpoint.served_model
    read = context.inputs.get("model")
    return str(read.name) if read is not None else settings.model.rstrip("/").rsplit("/", 1)[-1]


def _cut(rows: list[Row]) -> int:
    return sum(row["finish_reasons"].count("length") for row in rows)


def _all(folders: list[str]) -> Iterator[Row]:
    for folder in folders:
        yield from storage.read_rows(folder)


def _add(counts: dict[str, dict[str, int]], more: dict[str, dict[str, int]]) -> None:
    for kind, reasons in more.items():
        for reason, number in reasons.items():
            of_kind = counts.setdefault(kind, {})
            of_kind[reason] = of_kind.get(reason, 0) + number


STAGE = Stage(
    kind="answers",
    settings=AnswerSettings,
    run=run,
    reads={"model": Reads("model", optional=True)},
    adds=tuple(ROWS.names),
    external_inputs=lambda settings: {
        f"file:{settings.questions}": fingerprints.of_file(settings.questions)["sha256"]
    },
)
