"""Judges as benchmarks use them: questions in, texts out, by a model here or by an endpoint.

questions (id, prompts: one or more conversations) ─► texts, one a conversation, with why each
                                                      ended; resumable like every pass
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from rayonale import storage
from rayonale.generate import finish, remote, stream
from rayonale.generate.endpoint import EndpointOptions
from rayonale.generate.settings import Completion, EngineOptions, Request, Sampling, row_seed
from rayonale.records import MESSAGES
from rayonale.stages import Settings, StageContext

Row = dict[str, Any]

QUESTIONS = pa.schema([("id", pa.string()), ("prompts", pa.list_(MESSAGES))])
_ADDS = pa.schema(
    [("texts", pa.list_(pa.string())), ("finish_reasons", pa.list_(pa.string()))]
)  # fmt: skip


class LocalAsked(Settings):
    """A judge that runs here.

    Attributes:
        model: the judge, when no stage is read in the role `judge_model`.
        engine: how the model is run.
        sampling: of its texts; greedy by default.
        seed: of its texts, where they are drawn.
    """

    kind: Literal["llm"]
    name: str = Field("llm", min_length=1)
    model: str = "tinyworld"
    engine: EngineOptions = EngineOptions()
    sampling: Sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=2_048)
    seed: int = 0


class EndpointAsked(Settings):
    """A judge behind an OpenAI-compatible endpoint."""

    kind: Literal["endpoint"]
    name: str = Field("endpoint", min_length=1)
    endpoint: EndpointOptions
    sampling: Sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=2_048)
    seed: int = 0


Asked = Annotated[LocalAsked | EndpointAsked, Field(discriminator="kind")]


@dataclass(frozen=True)
class AskTask:
    """The pass over questions; see `rayonale.generate.stream.Task`."""

    sampling: Sampling
    seed: int
    json_schema: dict[str, Any] | None = None
    adds: pa.Schema = _ADDS

    def requests(self, row: Row) -> list[Request] | stream.Rejection | None:
        """One a conversation, with seeds of their own where anything is drawn."""
        drawn = self.sampling.temperature > 0
        return [
            Request(messages, row_seed(self.seed, row["id"], number) if drawn else None)
            for number, messages in enumerate(row["prompts"])
        ]

    def collect(self, row: Row, completions: list[Completion]) -> Row | stream.Rejection:
        """All texts, raw."""
        return {
            "texts": [one.text for one in completions],
            "finish_reasons": [one.finish_reason for one in completions],
        }


def ask(
    context: StageContext, judge: LocalAsked | EndpointAsked, questions: Iterable[Row]
) -> tuple[Iterator[Row], Row]:
    """A judge's texts of all questions in their order, and what is known of the pass.

    Args:
        questions: rows of `QUESTIONS`.

    Returns:
        Rows of the questions with `texts`, `finish_reasons` and `stream.STATUS_COLUMN` (None where
        all is well, else why there are no texts), and facts for the manifest.

    Raises:
        ValueError: a stage is read in the role `judge_model` that the judge would not use.
    """
    if context.inputs.get("judge_model") and (
        judge.kind == "endpoint" or "model" in judge.model_fields_set
    ):
        raise ValueError(
            f"stages.{context.name}.reads.judge_model: the judge {judge.name!r} has an endpoint or "
            "a model of its own; expected only one of them"
        )
    work = storage.join(context.out, storage.WORK, "judges", judge.name)
    folder, answers = storage.join(work, "questions"), storage.join(work, "answers")
    storage.write_rows(folder, iter(questions), QUESTIONS)  # cheap, and the same after a kill
    task = AskTask(judge.sampling, judge.seed)
    facts = run_pass(context, judge, task, folder, answers)
    return finish.finished(answers), {"judge": judge.name, "kind": judge.kind, **facts}


def run_pass(context: StageContext, judge: Any, task: Any, questions: str, answers: str) -> Row:
    """Run a task over questions by a judge's model or endpoint; who answered, and the numbers.

    Args:
        judge: settings with `name`, and either `endpoint` or `model` and `engine`.
    """
    told: Row = {"identity": context.fingerprint, "name": f"{context.name}: {judge.name}"}
    if judge.kind == "endpoint":
        report = remote.generate(questions, answers, task, judge.endpoint, **told)
        return {"model": judge.endpoint.served_model, **report.metrics()}
    read = context.inputs.get("judge_model")
    report = stream.generate(
        questions,
        answers,
        task,
        context.engines.get(judge.model if read is None else read.model, judge.engine),
        **told,
    )
    return {"model": judge.model if read is None else read.name, **report.metrics()}
