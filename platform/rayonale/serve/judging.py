"""`/v1/judge`: a served policy as a judge, with the templates and the parser of the `judge` stage.

    conversation, one or two responses, rubric ─► template ─► policy ─► rationale, verdict, status
                                                  (two: in both orders)

A judgement that cannot be read has no verdict and says why; it is neither drawn again nor guessed.
"""

from __future__ import annotations

import asyncio
from typing import Any

from rayonale.data.formats.judged import rubric_of
from rayonale.enrich.judge_task import JudgeTask
from rayonale.enrich.judgement_prompts import Row, wording
from rayonale.evaluate import verdict_layouts, verdicts
from rayonale.evaluate.judge_verdicts import told_of
from rayonale.generate.settings import Completion, Sampling
from rayonale.serve.boundary import Noted
from rayonale.serve.errors import ApiError
from rayonale.serve.messages import Answer, Ask
from rayonale.serve.protocol import JudgeRequest
from rayonale.serve.routing import Route, Router
from rayonale.serve.settings import Judging, Limits


class Judge:
    """Answers requests for judgements."""

    def __init__(self, router: Router, limits: Limits) -> None:
        self._router, self._limits = router, limits

    async def __call__(self, request: JudgeRequest, noted: Noted) -> dict[str, Any]:
        """Judgements in every order, and the verdict that they come to.

        Raises:
            ApiError: the model is no judge, or the request is refused.
        """
        route = self._router.route(request.model)
        noted.model = request.model
        judging = route.policy.judge
        if judging is None:
            told = "this model is not served as a judge (its setting `judge`)"
            raise ApiError(400, "not_a_judge", told, "model")
        task = task_of(judging, request)
        row = row_of(request)
        orders = task.wording.orders_of(row)
        if request.n * len(orders) > self._limits.samples:
            told = f"n: at most {self._limits.samples} judgements of one request, in all orders"
            raise ApiError(400, "too_many_samples", told, "n")
        texts = [task.wording.render(row, order) for order in orders]
        # All orders go to one model, the policy or its challenger.
        user = request.user or noted.id
        asked = [
            asyncio.create_task(self._router.generate(route, ask_of(text, request, route), user))
            for text in texts
        ]
        try:
            answers = await asyncio.gather(*asked)
        finally:
            for each in asked:  # the other order's, when one failed
                each.cancel()
        noted.version = answers[0].begun.model.told
        noted.prompt_tokens = sum(answer.begun.prompt_tokens for answer in answers)
        noted.tokens = sum(piece.tokens for answer in answers for piece in answer.pieces)
        judgements = [
            judgement
            for order, text, answer in zip(orders, texts, answers, strict=True)
            for judgement in read(task, order, text, answer, request.seed)
        ]
        return whole(request, answers[0], judgements, noted)


def task_of(judging: Judging, request: JudgeRequest) -> JudgeTask:
    """The stage's task with the templates that the judge was trained on."""
    return JudgeTask(
        wording=wording(judging.pointwise, judging.pairwise, orders=request.orders),
        sampling=Sampling(temperature=float(request.temperature), max_tokens=request.max_tokens),
        n=request.n,
        seed=request.seed or 0,
        scores=verdicts.scale(1, judging.best, halves=judging.halves),
        comparisons=verdict_layouts.comparisons(judging.layout, judging.ties),
        layout=judging.layout,
    )


def row_of(request: JudgeRequest) -> Row:
    """The request as a row that the stage judges."""
    rubric = request.rubric
    if rubric is not None and not isinstance(rubric, str):
        rubric = rubric_of(rubric.criteria, {int(k): text for k, text in rubric.scores.items()})
    return {
        "id": "request",
        "prompt": [message.message() for message in request.messages],
        "responses": [[{"role": "assistant", "content": text}] for text in request.responses],
        "rubric": rubric,
        "reference": request.reference,
    }


def ask_of(text: str, request: JudgeRequest, route: Route) -> Ask:
    """One order's judgements as samples of the policy."""
    return Ask(
        prompt=[{"role": "user", "content": text}],
        n=request.n,
        temperature=float(request.temperature),
        max_tokens=request.max_tokens,
        seed=request.seed,
        adapter=route.adapter,
    )


def read(
    task: JudgeTask, order: str | None, prompt: str, answer: Answer, seed: int | None
) -> list[Row]:
    """Judgements of one order, as the stage keeps them."""
    return [
        task.judgement(
            Completion(
                text=piece.text, tokens=piece.tokens, finish_reason=piece.finish_reason or "stop"
            ),
            prompt, order, None if seed is None else seed + piece.index,
        )
        for piece in answer.pieces
    ]  # fmt: skip


def whole(
    request: JudgeRequest, answer: Answer, judgements: list[Row], noted: Noted
) -> dict[str, Any]:
    """The answer's body; `verdict` is null where no judgement can be read."""
    told = told_of(judgements, "first" if request.n == 1 else "vote", None)
    kept = ("rationale", "verdict", "status", "reason", "text", "order", "seed", "finish_reason")
    return {
        "object": "judgement",
        "model": request.model,
        "system_fingerprint": answer.begun.model.told,
        "verdict": told.value,
        "orders_disagree": told.flipped,
        "judgements": [{name: each[name] for name in kept} for each in judgements],
        "usage": {
            "prompt_tokens": noted.prompt_tokens,
            "completion_tokens": noted.tokens,
            "total_tokens": (noted.prompt_tokens or 0) + (noted.tokens or 0),
        },
    }
