"""Rewards: our `/v1/rewards`, and the layouts of vLLM's and OpenRLHF's clients."""

from __future__ import annotations

from typing import Any

from rayonale.serve.boundary import Noted
from rayonale.serve.errors import ApiError
from rayonale.serve.messages import Scored
from rayonale.serve.metrics import Metrics
from rayonale.serve.protocol import (
    PoolingRequest,
    RemoteRewardRequest,
    RewardRequest,
    ScoreRequest,
)
from rayonale.serve.routing import Router
from rayonale.serve.settings import Limits

Body = dict[str, Any]


class Rewards:
    """Answers requests for rewards.

    Args:
        rendered_text: take conversations as rendered text, control tokens included.
    """

    def __init__(
        self, router: Router, limits: Limits, metrics: Metrics, rendered_text: bool
    ) -> None:
        self._router, self._limits, self._metrics = router, limits, metrics
        self._rendered = rendered_text

    async def rewards(self, request: RewardRequest, noted: Noted) -> Body:
        """Rewards of conversations, in their order."""
        conversations = [[each.message() for each in said] for said in request.all()]
        scored = await self._score(request.model, conversations, noted)
        return {
            "object": "rewards",
            "model": noted.model,
            "version": scored.model.version,
            "fingerprint": scored.model.fingerprint,
            "normalisation": "none",  # rewards are the head's own values
            "rewards": list(scored.rewards),
            "usage": _usage(scored),
        }

    async def score(self, request: ScoreRequest, noted: Noted) -> Body:
        """vLLM's scores: of the second text as an answer to the first."""
        try:
            pairs = request.pairs()
        except ValueError as error:
            raise ApiError(400, "invalid_value", str(error), "text_2") from error
        conversations = [
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
            for prompt, response in pairs
        ]
        scored = await self._score(request.model, conversations, noted)
        data = [
            {"index": i, "object": "score", "score": reward}
            for i, reward in enumerate(scored.rewards)
        ]
        return self._list(noted, data, scored)

    async def pooling(self, request: PoolingRequest, noted: Noted) -> Body:
        """vLLM's pooled values: one a conversation."""
        scored = await self._pooled(request, noted)
        data = [
            {"index": i, "object": "pooling", "data": [reward]}
            for i, reward in enumerate(scored.rewards)
        ]
        return self._list(noted, data, scored)

    async def classify(self, request: PoolingRequest, noted: Noted) -> Body:
        """vLLM's classes: of one class, whose value is the reward (no sigmoid)."""
        scored = await self._pooled(request, noted)
        data = [
            {"index": i, "label": "LABEL_0", "probs": [reward], "num_classes": 1}
            for i, reward in enumerate(scored.rewards)
        ]
        return self._list(noted, data, scored)

    async def remote(self, request: RemoteRewardRequest, noted: Noted) -> Body:
        """OpenRLHF's remote reward model."""
        scored = await self._texts(None, request.query, noted)
        rewards = list(scored.rewards)
        return {"rewards": rewards, "scores": rewards, "extra_logs": {}}

    async def _pooled(self, request: PoolingRequest, noted: Noted) -> Scored:
        if request.messages is not None:
            said = [each.message() for each in request.messages]
            if said[-1]["role"] != "assistant":
                told = "messages: expected an assistant's message at the end"
                raise ApiError(400, "invalid_value", told, "messages")
            return await self._score(request.model, [said], noted)
        texts = [request.input] if isinstance(request.input, str) else list(request.input or [])
        return await self._texts(request.model, texts, noted)

    async def _texts(self, model: str | None, texts: list[str], noted: Noted) -> Scored:
        self._check(model, len(texts), noted)
        if not self._rendered:
            told = "rendered text is not taken here (oracle.rendered_text); send messages"
            raise ApiError(403, "rendered_text_off", told, "input")
        return self._told(await self._router.score_rendered(texts), noted)

    async def _score(self, model: str | None, conversations: list[Any], noted: Noted) -> Scored:
        self._check(model, len(conversations), noted)
        return self._told(await self._router.score(conversations), noted)

    def _check(self, model: str | None, count: int, noted: Noted) -> None:
        noted.model = self._router.oracle_name
        if model is not None and model != noted.model:
            told = f"no oracle of that name; it is called {noted.model}"
            raise ApiError(404, "model_not_found", told, "model")
        if count > self._limits.conversations:
            told = f"at most {self._limits.conversations} conversations in one request"
            raise ApiError(413, "too_many_conversations", told)

    def _told(self, scored: Scored, noted: Noted) -> Scored:
        noted.version, noted.prompt_tokens = scored.model.told, scored.tokens
        self._metrics.rewards(noted.model, scored.rewards)
        return scored

    def _list(self, noted: Noted, data: list[Body], scored: Scored) -> Body:
        return {
            "id": noted.id,
            "object": "list",
            "model": noted.model,
            "system_fingerprint": scored.model.told,
            "data": data,
            "usage": _usage(scored),
        }


def _usage(scored: Scored) -> dict[str, int]:
    return {
        "prompt_tokens": scored.tokens,
        "total_tokens": scored.tokens,
        "completion_tokens": 0,
    }
