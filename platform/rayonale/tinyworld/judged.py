"""Stage `tinyworld_judgements`: data for judges of the small world, as JSON lines in `raw/`.

The layouts are those of the Feedback Collection (one response, a score from 1 to 5) and of the
Preference Collection (two responses, A or B); labels are exact, feedback is the teacher's:

    {"orig_instruction": "Name two birds …", "orig_response": "Softly, here are crow and owl.",
     "orig_reference_answer": "…", "orig_criteria": "…",
     "orig_score1_description": "nearly all wrong", …,
     "orig_feedback": "Kind 5, number 5, order 1 …", "orig_score": "3"}

    {"orig_instruction": "…", "orig_response_A": "…", "orig_response_B": "…", "orig_criteria": "…",
     "orig_feedback": "Kind 5 5, …", "orig_preference": "B", "orig_score_A": "2",
     "orig_score_B": "4"}
"""

from __future__ import annotations

import json
import random
import re
from typing import Any, Literal

from pydantic import Field, model_validator

from rayonale import storage
from rayonale.data import estimates
from rayonale.stages import Settings, Stage, StageContext, StageResult
from rayonale.tinyworld.judgements import RUBRIC, flawed_judgement, pairwise_judgement
from rayonale.tinyworld.requests import PHRASINGS, render, sample_request
from rayonale.tinyworld.responses import write_response
from rayonale.tinyworld.rubric import score, verdict

CRITERIA = "How many of the six things that were asked for does the response do?"
SCORES = {int(n): told for n, told in re.findall(r"(\d): ([^.]+)\.", RUBRIC)}
_MARKER = re.compile(r"\s*\[RESULT\].*\Z")


class TinyworldJudgementSettings(Settings):
    """Settings of `tinyworld_judgements`.

    Attributes:
        task: one response to score, or two to compare.
        size: inputs; seed, start: of the drawing, and the first one's number.
        balanced: pointwise only: every score comes as often as any other.
        flaw_rate: pointwise only: share of feedback with two untrue checks (labels stay exact), as
            a teacher that is a language model would write.
    """

    task: Literal["pointwise", "pairwise"] = "pointwise"
    size: int = Field(1_000, ge=1)
    seed: int = Field(0, ge=0)
    start: int = Field(0, ge=0)
    balanced: bool = True
    flaw_rate: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _pointwise_options(self) -> TinyworldJudgementSettings:
        given = sorted({"balanced", "flaw_rate"} & self.model_fields_set)
        if self.task == "pairwise" and given:
            raise ValueError(f"{', '.join(given)}: only pointwise judgements have it")
        return self


def pointwise_row(seed: int, index: int, settings: TinyworldJudgementSettings) -> dict[str, Any]:
    """The raw row of an index; depends on nothing else."""
    rng = random.Random(f"tinyworld pointwise {seed} {index}")
    while True:
        request = sample_request(rng)
        prompt = render(request, rng.randrange(len(PHRASINGS)))
        response = write_response(request, rng)
        label = verdict(score(prompt, response).overall)
        if not settings.balanced or label == 1 + index % 5:
            break
    wrong = 2 if rng.random() < settings.flaw_rate else 0
    feedback = flawed_judgement(prompt, response, rng, wrong)
    return {
        "orig_instruction": prompt,
        "orig_response": response,
        "orig_reference_answer": write_response(request, rng, 1.0),
        "orig_criteria": CRITERIA,
        **{f"orig_score{n}_description": told for n, told in SCORES.items()},
        "orig_feedback": _MARKER.sub("", feedback),
        "orig_score": str(label),
    }


def pairwise_row(seed: int, index: int, settings: TinyworldJudgementSettings) -> dict[str, Any]:
    """The raw row of an index: two responses of unequal score."""
    rng = random.Random(f"tinyworld pairwise {seed} {index}")
    while True:
        request = sample_request(rng)
        prompt = render(request, rng.randrange(len(PHRASINGS)))
        first, second = write_response(request, rng), write_response(request, rng)
        overall = [score(prompt, text).overall for text in (first, second)]
        if overall[0] != overall[1]:
            break
    return {
        "orig_instruction": prompt,
        "orig_response_A": first,
        "orig_response_B": second,
        "orig_reference_answer": write_response(request, rng, 1.0),
        "orig_criteria": CRITERIA,
        "orig_feedback": _MARKER.sub("", pairwise_judgement(prompt, first, second, rng)),
        "orig_preference": "A" if overall[0] > overall[1] else "B",
        "orig_score_A": str(verdict(overall[0])),
        "orig_score_B": str(verdict(overall[1])),
    }


def run(context: StageContext, settings: TinyworldJudgementSettings) -> StageResult:
    """Draw inputs of judges with exact labels."""
    draw = pointwise_row if settings.task == "pointwise" else pairwise_row
    numbers = range(settings.start, settings.start + settings.size)
    rows = (draw(settings.seed, index, settings) for index in numbers)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    storage.write_bytes(storage.join(context.out, "raw", "judgements.jsonl"), text.encode())
    return StageResult(rows_out=settings.size)


STAGE = Stage(
    "tinyworld_judgements",
    TinyworldJudgementSettings,
    run,
    adds=("prompt", "responses"),
    estimate=estimates.tinyworld_judgements,
)
