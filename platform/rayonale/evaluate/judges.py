"""An LLM judge of pairs: what it is asked, in both orders, and what its answers come to.

    pairs ─ questions/ (both orders rendered) ─ generate ─► texts ─ verdicts.py ─► rows, rejects

The questions are a folder of Parquet rows, so the pass over them is the one that rationales and
samples use: resumable, through the recipe's shared engines.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from rayonale import prompts, storage
from rayonale.enrich.transcript import prompt_text
from rayonale.evaluate.asking import run_pass
from rayonale.evaluate.comparisons import BothOrders, judge_both_orders, soften
from rayonale.evaluate.soft_verdicts import soft_preference, verdict_step
from rayonale.evaluate.summary import reject
from rayonale.evaluate.verdicts import PAIRWISE, PAIRWISE_TIE, Verdict
from rayonale.generate import finish, stream
from rayonale.generate.endpoint import EndpointOptions
from rayonale.generate.settings import Completion, EngineOptions, Request, Sampling, row_seed
from rayonale.records import Message, RejectKind
from rayonale.stages import Settings, StageContext

log = logging.getLogger("rayonale")

Row = dict[str, Any]

# What a template is given.
VARIABLES = frozenset({"prompt", "response_1", "response_2", "reference"})

_QUESTIONS = pa.schema([("id", pa.string()), ("ab", pa.string()), ("ba", pa.string())])
_ANSWER = pa.list_(
    pa.struct(
        [
            ("text", pa.string()),
            ("finish_reason", pa.string()),
            ("seed", pa.int64()),
            # of the verdict's token, where verdicts are read from log-probabilities
            ("top", pa.list_(pa.struct([("token", pa.string()), ("logprob", pa.float64())]))),
        ]
    )
)
# Most likely tokens asked for: what vLLM gives at most by default.
_TOP = 20
_ORDERS = ("ab", "ba")
_REASONED = "judge_pairwise"  # the template that reasons before its verdict
_ADDS = pa.schema([(f"answers_{order}", _ANSWER) for order in _ORDERS])


class PairJudge(Settings):
    """Compares by a language model that sees both responses, in both orders.

    Attributes:
        name: what metrics and the report call it.
        template: prompt with variables prompt, response_1, response_2; the judge's text must end
            in `[RESULT]` and 1 or 2.
        reference: `chosen` shows the data's preferred text too, as the variable reference.
        ties: whether the template offers `[RESULT] tie`.
        verdict: `text` takes the choice that was written; `logprobs` the probability of each, from
            the log-probabilities of the verdict's token: outcomes then lie between 0 and 1, and
            two orders are averaged. `first_token` is the same for a template that asks for 1 or 2
            and nothing else (as AlpacaEval 2 does): one token is drawn, and it is the verdict's.
        sampling: of the judgement; greedy by default.
        repeats: judgements of each order; more than one needs a temperature above 0.
        seed: of the judgements.
    """

    name: str = Field("llm", min_length=1)
    template: str = _REASONED
    reference: Literal["chosen"] | None = None
    ties: bool = False
    verdict: Literal["text", "logprobs", "first_token"] = "text"
    sampling: Sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=512)
    repeats: int = Field(1, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _repeats_differ(self) -> PairJudge:
        if self.repeats > 1 and self.sampling.temperature == 0:
            raise ValueError(
                f"repeats {self.repeats} with temperature 0 would be the same judgement "
                f"{self.repeats} times; set sampling.temperature"
            )
        if self.ties and self.verdict != "text":
            raise ValueError(
                f"ties: true with verdict: {self.verdict}; a probability says how near to a tie a "
                "pair is: expected ties: false"
            )
        return self

    @model_validator(mode="after")
    def _first_token_is_the_verdict(self) -> PairJudge:
        if self.verdict != "first_token":
            return self
        if self.template == _REASONED:
            raise ValueError(
                f"verdict: first_token with template {_REASONED!r}, which asks for reasons first; "
                "expected one that asks for 1 or 2 alone, such as judge_first_token"
            )
        longer = "max_tokens" in self.sampling.model_fields_set and self.sampling.max_tokens > 1
        if self.repeats > 1 or ("sampling" in self.model_fields_set and longer):
            raise ValueError(
                "verdict: first_token draws one token once; leave out repeats and max_tokens"
            )
        return self

    @property
    def drawn(self) -> Sampling:
        """How its texts are drawn."""
        if self.verdict != "first_token":
            return self.sampling
        return self.sampling.model_copy(update={"max_tokens": 1})


class LlmJudge(PairJudge):
    """A judge that runs here.

    Attributes:
        model: the judge, when no stage is read in the role `judge_model`.
        engine: how the model is run.
    """

    kind: Literal["llm"]
    model: str = "tinyworld"
    engine: EngineOptions = EngineOptions()


class EndpointJudge(PairJudge):
    """A judge behind an OpenAI-compatible endpoint.

    Attributes:
        endpoint: where and how to ask.
    """

    kind: Literal["endpoint"]
    name: str = Field("endpoint", min_length=1)
    endpoint: EndpointOptions


@dataclass(frozen=True)
class JudgeTask:
    """What the pass draws for a question: `repeats` judgements of each order."""

    sampling: Sampling
    repeats: int
    seed: int
    verdict: str = "text"
    json_schema: dict[str, Any] | None = None
    adds: pa.Schema = _ADDS

    def seeds(self, row: Row) -> list[int | None]:
        """One a completion: the repeats of ab, then those of ba; None where nothing is drawn."""
        if self.sampling.temperature == 0:
            return [None] * (2 * self.repeats)
        return [row_seed(self.seed, row["id"], k) for k in range(2 * self.repeats)]

    def requests(self, row: Row) -> list[Request] | stream.Rejection | None:
        """The questions in both orders."""
        asked = [row[order] for order in _ORDERS for _ in range(self.repeats)]
        return [
            Request(
                [Message(role="user", content=text)], seed, 0 if self.verdict == "text" else _TOP
            )
            for text, seed in zip(asked, self.seeds(row), strict=True)
        ]

    def collect(self, row: Row, completions: list[Completion]) -> Row | stream.Rejection:
        """All texts, raw."""
        answers = [
            {
                "text": one.text,
                "finish_reason": one.finish_reason,
                "seed": seed,
                "top": _verdict_alternatives(one, self.verdict),
            }
            for one, seed in zip(completions, self.seeds(row), strict=True)
        ]
        return {"answers_ab": answers[: self.repeats], "answers_ba": answers[self.repeats :]}


def _verdict_alternatives(completion: Completion, verdict: str) -> list[Row] | None:
    """Log-probabilities in the place of the verdict; none where no token is the verdict."""
    if verdict == "text":
        return None
    first = completion.steps[0] if completion.steps else None
    step = first if verdict == "first_token" else verdict_step(completion.steps)
    return [{"token": t, "logprob": p} for t, p in step.top.items()] if step else []


def judge_pairs(
    context: StageContext, items: Sequence[Row], judge: PairJudge
) -> tuple[list[Row], list[Row], Row]:
    """(rows, rejects, facts) of a judge over pairs of responses.

    Two equal responses are a tie without asking: no judge can tell them apart, and its two
    orders would count as a flip.

    Args:
        items: columns of `comparisons.ROWS` that describe a pair.
    """
    if judge.reference and (lacking := [i for i in items if i.get("reference") is None]):
        raise ValueError(
            f"judge {judge.name!r}: reference: chosen, but {len(lacking)} of {len(items)} pairs "
            f"have no text in `chosen` (prompt {lacking[0]['prompt_id']}): expected pairs' samples"
        )
    asked = [item for item in items if item["response_a"] != item["response_b"]]
    rows = [
        _row(item, judge, repeat) | {"outcome": 0.5}
        for item in items
        if item["response_a"] == item["response_b"]
        for repeat in range(judge.repeats)
    ]
    answers, facts = _ask(context, asked, judge) if asked else (iter(()), {})
    by_id = {_question_id(item): item for item in asked}
    rejects: list[Row] = []
    for answered in answers:
        item = by_id[answered["id"]]
        for repeat in range(judge.repeats):
            judged, refused = _read(item, answered, judge, repeat)
            rows += [judged] if judged else []
            rejects += [refused] if refused else []
    return rows, rejects, {**facts, "equal_responses": len(items) - len(asked)}


def _ask(
    context: StageContext, items: Sequence[Row], judge: PairJudge
) -> tuple[Iterator[Row], Row]:
    """Answers to all questions, in their order, and what is known of the pass."""
    work = storage.join(context.out, storage.WORK, "judges", judge.name)
    questions = storage.join(work, "questions")
    storage.remove(questions)  # cheap, and the same again after a kill
    storage.write_rows(questions, (_question(item, judge) for item in items), _QUESTIONS)
    answers = storage.join(work, "answers")
    task = JudgeTask(judge.drawn, judge.repeats, judge.seed, judge.verdict)
    told = run_pass(context, judge, task, questions, answers)
    return finish.finished(answers), {
        "template": judge.template,
        "prompt_fingerprint": prompts.fingerprint(judge.template),
        **told,
    }


def _question(item: Row, judge: PairJudge) -> Row:
    given = {"prompt": prompt_text(item["prompt"])}
    if judge.reference:
        given["reference"] = item["reference"]
    a, b = item["response_a"], item["response_b"]
    return {
        "id": _question_id(item),
        "ab": prompts.render(judge.template, **given, response_1=a, response_2=b),
        "ba": prompts.render(judge.template, **given, response_1=b, response_2=a),
    }


def _question_id(item: Mapping[str, Any]) -> str:
    return f"{item['comparison']}/{item['prompt_id']}/{item['sample']}"


def _row(item: Row, judge: PairJudge, repeat: int) -> Row:
    return {
        **item,
        "id": f"{item['comparison']}/{judge.name}/{item['prompt_id']}/{item['sample']}/{repeat}",
        "judge": judge.name,
        "judge_kind": "llm",
        "repeat": repeat,
    }


def _read(item: Row, answered: Row, judge: PairJudge, repeat: int) -> tuple[Row | None, Row | None]:
    """(row, None) or (None, reject) of one repeat."""
    row = _row(item, judge, repeat)
    status = answered[stream.STATUS_COLUMN]
    if status is not None:
        kind = RejectKind(status["kind"])
        return None, reject(row, kind, status["reason"], status["detail"])
    ab, ba = (answered[f"answers_{order}"][repeat] for order in _ORDERS)
    both = _both(answered, ab, ba, judge)
    row |= {
        "text_ab": ab["text"],
        "text_ba": ba["text"],
        "verdict_ab": both.ab.value,
        "verdict_ba": both.ba.value,
        "flipped": both.flipped,
    }
    if both.outcome is None:
        culprit = ab if both.ab.value is None else ba
        expected = {
            "text": "it to end in [RESULT] and a verdict",
            "logprobs": "it to end in [RESULT] and a verdict whose token is 1 or 2",
            "first_token": f"1 or 2 among the {_TOP} likeliest first tokens",
        }[judge.verdict]
        detail = f"found {culprit['text'][-200:]!r}, expected {expected}"
        return None, reject(row, RejectKind.INVALID, str(both.reason), detail)
    return row | {"outcome": both.outcome}, None


def _both(answered: Row, ab: Row, ba: Row, judge: PairJudge) -> BothOrders:
    """What the answers in both orders come to."""
    soft = [soft_preference(_top(answer)) for answer in (ab, ba)] if judge.verdict != "text" else []
    if judge.verdict == "first_token":
        unread = Verdict(None, "")
        return soften(BothOrders(unread, unread, None, False, None), *soft)
    both = judge_both_orders(
        ab["text"],
        ba["text"],
        prompts=(answered["ab"], answered["ba"]),
        finish_reasons=(ab["finish_reason"], ba["finish_reason"]),
        choices=PAIRWISE_TIE if judge.ties else PAIRWISE,
    )
    return soften(both, *soft) if soft and both.outcome is not None else both


def _top(answer: Row) -> dict[str, float] | None:
    return {one["token"]: one["logprob"] for one in answer["top"] or ()} or None
