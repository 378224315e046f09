"""Stage `judge_judgements`: a judge of judgements, in both senses of arXiv 2410.05495.

    ask: rate   each judgement gets a rating from 1 to 5: its score and its reasons
                (self-assessment; appendix A.1.4)          → `rating` in `judgements`
    ask: pick   of the rationales of an input whose verdict is the label's, the best and the worst
                as a list of two (appendix A.1.6)          → column `picks`, for margin 0

An answer that cannot be read gives no rating and no pick; it keeps its reason and is counted.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from rayonale import prompts
from rayonale.enrich import judge_estimates
from rayonale.enrich.generation import GenerationSettings, check_template, run_pass
from rayonale.enrich.transcript import prompt_text, response_text
from rayonale.evaluate.verdicts import read_verdict, scale
from rayonale.generate import finish
from rayonale.generate.settings import Completion, Request, Sampling, row_seed
from rayonale.generate.stream import Rejection
from rayonale.records import JUDGEMENT, Message
from rayonale.stages import Reads, Stage, StageContext, StageResult

Row = dict[str, Any]

VARIABLES = {
    "rate": frozenset({"prompt", "response", "judgement", "rubric", "reference"}),
    "pick": frozenset({"prompt", "response", "rationales", "rubric", "reference"}),
}
PICK = pa.struct(
    [
        ("order", pa.string()),
        ("best", pa.int64()),  # index among the input's judgements of this order
        ("worst", pa.int64()),
        ("text", pa.string()),  # raw, as the judge wrote it
        ("reason", pa.string()),  # why nothing could be picked
    ]
)
RATED = pa.schema(
    [("judgements", pa.list_(JUDGEMENT)), ("ratings_unreadable", pa.list_(pa.string()))]
)
PICKED = pa.schema([("picks", pa.list_(PICK))])
_LIST = re.compile(r"\[([^\[\]]*)\]")


class MetaJudgeSettings(GenerationSettings):
    """Settings of the `judge_judgements` stage, beside those of every stage with engines.

    Attributes:
        ask: `rate` or `pick`.
        template: `rate` has the variables prompt, response, judgement, rubric, reference and must
            end in `[RESULT]` and 1 to 5; `pick` has rationales (a list) in the place of judgement
            and answers with a list of two numbers. None takes `rate_judgement` or `pick_rationale`.
        candidates: at most so many rationales are shown to `pick`, the first different ones.
    """

    splits: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")
    ask: Literal["rate", "pick"] = "rate"
    template: str | None = None
    candidates: int | None = Field(default=None, ge=2)
    sampling: Sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=512)

    @model_validator(mode="after")
    def _candidates_are_picked_from(self) -> MetaJudgeSettings:
        if self.ask == "rate" and self.candidates is not None:
            raise ValueError("candidates: every judgement is rated; it is for ask: pick")
        return self

    @property
    def template_name(self) -> str:
        """The template that is used."""
        return self.template or ("rate_judgement" if self.ask == "rate" else "pick_rationale")


@dataclass(frozen=True)
class _Asking:
    """What both passes share; plain values, for workers."""

    template_text: str
    template: str
    sampling: Sampling
    seed: int
    json_schema: dict[str, Any] | None = None

    def request(self, row: Row, place: str, **given: Any) -> Request:
        """A question about a row."""
        text = prompts.render_text(self.template_text, where=self.template, **given)
        seed = row_seed(self.seed, f"{row['id']}:{place}", 0)
        drawn = self.sampling.temperature > 0
        return Request([Message(role="user", content=text)], seed if drawn else None)


@dataclass(frozen=True)
class RateTask(_Asking):
    """The pass that rates judgements; see `rayonale.generate.stream.Task`."""

    adds: pa.Schema = RATED

    def requests(self, row: Row) -> list[Request] | Rejection | None:
        """One for every readable judgement."""
        return [
            self.request(row, str(i), judgement=each["text"], **shown_of(row, each["order"]))
            for i, each in _readable(row)
        ]

    def collect(self, row: Row, completions: list[Completion]) -> Row | Rejection:
        """Judgements with their ratings."""
        judged = [dict(each) for each in row["judgements"]]
        reasons = []
        for (i, _), answer in zip(_readable(row), completions, strict=True):
            found = read_verdict(answer.text, scale(1, 5), finish_reason=answer.finish_reason)
            judged[i]["rating"] = found.value
            reasons += [found.reason] if found.reason else []
        return {"judgements": judged, "ratings_unreadable": reasons}


@dataclass(frozen=True)
class PickTask(_Asking):
    """The pass that picks rationales; see `rayonale.generate.stream.Task`."""

    candidates: int | None = None
    adds: pa.Schema = PICKED

    def requests(self, row: Row) -> list[Request] | Rejection | None:
        """One for every order with two candidates or more."""
        asked = []
        for order, (judged, shown) in self._shown(row).items():
            if len(shown) > 1:
                texts = [judged[i]["rationale"].strip() for i in shown]
                asked.append(
                    self.request(row, str(order), rationales=texts, **shown_of(row, order))
                )
        return asked

    def collect(self, row: Row, completions: list[Completion]) -> Row | Rejection:
        """A pick for every order."""
        answers, picks = iter(completions), []
        for order, (_, shown) in self._shown(row).items():
            text = next(answers).text if len(shown) > 1 else None
            found = None if text is None else read_pick(text, len(shown))
            reason = None if found else "fewer_than_two" if text is None else "unreadable"
            best, worst = (shown[k - 1] for k in found) if found else (None, None)
            picks.append(
                {"order": order, "best": best, "worst": worst, "text": text, "reason": reason}
            )
        return {"picks": picks}

    def _shown(self, row: Row) -> dict[str | None, tuple[list[Row], list[int]]]:
        """Order → its judgements, and which of them are shown."""
        found = {}
        for order in dict.fromkeys(each["order"] for each in row["judgements"]):
            judged = [each for each in row["judgements"] if each["order"] == order]
            first = {
                each["rationale"].strip(): i
                for i, each in reversed(list(enumerate(judged)))
                if row["label"] is not None and each["verdict"] == row["label"]
            }
            found[order] = judged, sorted(first.values())[: self.candidates]
        return found


def _readable(row: Row) -> list[tuple[int, Row]]:
    return [(i, e) for i, e in enumerate(row["judgements"]) if e["verdict"] is not None]


def shown_of(row: Row, order: str | None) -> Row:
    """What a judge of judgements is told of an input.

    Two responses that were compared are shown as one text, in the order of the judgement.
    """
    texts = [response_text(response) for response in row["responses"]]
    if order in ("ab", "ba"):
        first, second = texts if order == "ab" else reversed(texts)
        shown = f"Response 1: {first}\nResponse 2: {second}"
    else:
        shown = texts[1 if order == "b" else 0]
    return {
        "prompt": prompt_text(row["prompt"]),
        "response": shown,
        "rubric": row.get("rubric"),
        "reference": row.get("reference"),
    }


def read_pick(text: str, count: int) -> tuple[int, int] | None:
    """Numbers (from 1) of the best and the worst, from the last list in a text; None without one.

    A list is two different whole numbers from 1 to `count`, and nothing else.
    """
    lists = _LIST.findall(text)
    if not lists:
        return None
    told = [part.strip() for part in lists[-1].split(",")]
    if len(told) != 2 or not all(re.fullmatch(r"\d{1,4}", part, re.ASCII) for part in told):
        return None
    best, worst = (int(part) for part in told)
    if best == worst or not (1 <= best <= count and 1 <= worst <= count):
        return None
    return best, worst


def task_of(settings: MetaJudgeSettings) -> RateTask | PickTask:
    """The pass over judged inputs, as these settings have it."""
    name = settings.template_name
    given = (prompts.source(name), name, settings.sampling, settings.seed)
    if settings.ask == "pick":
        return PickTask(*given, candidates=settings.candidates)
    return RateTask(*given)


def run(context: StageContext, settings: MetaJudgeSettings) -> StageResult:
    """Rate judgements, or pick rationales."""
    name = settings.template_name
    report, work = run_pass(context, settings, task_of(settings), context.rows())
    counted: Counter[str] = Counter()

    def change(row: Row) -> Row:
        if settings.ask == "pick":
            counted.update(each["reason"] or "picked" for each in row["picks"])
            return row
        reasons = row.pop("ratings_unreadable")
        counted.update(["unreadable"] * len(reasons))
        counted.update("rated" for each in row["judgements"] if each["rating"] is not None)
        return row

    without = () if settings.ask == "pick" else ("ratings_unreadable",)
    rows_out, rejects = finish.split(work, context.out, change, without=without)
    return StageResult(
        rows_in=report.rows,
        rows_out=rows_out,
        rejects=rejects,
        metrics={**report.metrics(), **{f"judgements_{k}": n for k, n in counted.items()}},
        prompts=[name],
    )


def validate(settings: MetaJudgeSettings) -> list[str]:
    """Messages about a template that asks for what it is not given."""
    return check_template(settings.template_name, VARIABLES[settings.ask])


STAGE = Stage(
    kind="judge_judgements",
    settings=MetaJudgeSettings,
    run=run,
    reads={
        "rows": Reads("rows", ("id", "split", "prompt", "responses", "label", "judgements")),
        "model": Reads("model", optional=True),
    },
    adds=("judgements", "picks"),
    sources=lambda settings: [f"prompt:{settings.template_name}"],
    validate=validate,
    estimate=judge_estimates.judge_judgements,
)
