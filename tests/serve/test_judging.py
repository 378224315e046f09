"""What a judge's request asks of the models; their answers are written here."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from rayonale.serve.boundary import Noted
from rayonale.serve.errors import ApiError
from rayonale.serve.judging import Judge
from rayonale.serve.messages import Answer, Begun, Piece
from rayonale.serve.protocol import JudgeRequest
from rayonale.serve.served_model import ServedModel
from rayonale.serve.settings import Judging, Limits

JUDGING = Judging(pointwise="tinyworld/judge_pointwise", pairwise="tinyworld/judge_pairwise")
REQUEST = JudgeRequest.model_validate(
    {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "responses": ["a", "b"]}
)


class Models:
    """A router: the policy, of which one order's request may be refused."""

    def __init__(self, refused: bool = False) -> None:
        self.users: list[str | None] = []
        self.ended: list[str] = []
        self._refused = refused

    def route(self, model: str) -> Any:
        """A judge."""
        return SimpleNamespace(policy=SimpleNamespace(judge=JUDGING), adapter=None)

    async def generate(self, route: Any, ask: Any, user: str | None) -> Answer:
        """One order's judgement."""
        self.users.append(user)
        if self._refused and len(self.users) == 2:
            raise ApiError(400, "context_length_exceeded", "too long")
        try:
            await asyncio.sleep(60 if self._refused else 0)
        except asyncio.CancelledError:
            self.ended.append("given up")
            raise
        told = Begun(ServedModel("m", "m", None, "f" * 32), 7)
        return Answer(told, (Piece(0, "nothing that can be read", 3, None, "stop"),))


def noted() -> Noted:
    return Noted("req-1", 0.0)


def test_both_orders_of_a_judgement_go_to_one_model() -> None:
    models = Models()
    asyncio.run(Judge(models, Limits())(REQUEST, noted()))  # type: ignore[arg-type]
    # By the user a request goes to the policy or to its challenger; without one each order would
    # draw for itself.
    assert models.users == ["req-1", "req-1"]
    asyncio.run(Judge(models, Limits())(REQUEST.model_copy(update={"user": "u7"}), noted()))  # type: ignore[arg-type]
    assert models.users[2:] == ["u7", "u7"]


def test_an_order_that_is_refused_ends_the_other() -> None:
    models = Models(refused=True)

    async def run() -> None:
        with pytest.raises(ApiError, match="too long"):
            await Judge(models, Limits())(REQUEST, noted())  # type: ignore[arg-type]
        await asyncio.sleep(0)
        assert models.ended == ["given up"]

    asyncio.run(asyncio.wait_for(run(), 10))
