"""Which deployment answers; the deployments' handles are called in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from rayonale.serve.errors import ApiError
from rayonale.serve.messages import Answer, Ask, Begun, Elsewhere, Piece
from rayonale.serve.routing import Router
from rayonale.serve.served_model import ServedModel
from rayonale.serve.settings import Policy

POLICY = Policy.model_validate(
    {"name": "model", "model": "m", "challenger": {"model": "c", "share": 0.999999}}
)
PIECES = [Piece(0, "text", 1, None, "stop")]


class Handle:
    """A deployment that is there, or has been taken away."""

    def __init__(self, name: str, gone: bool = False) -> None:
        self.begun = Begun(ServedModel(name, name, None, name), 1)
        self._gone, self._method = gone, ""

    def options(self, method_name: str, stream: bool) -> Handle:
        """Of a call."""
        assert stream
        found = Handle(self.begun.model.ref, self._gone)
        found._method = method_name
        return found

    async def remote(self, *_: Any) -> AsyncIterator[Any]:
        """Call it."""
        if self._gone:
            raise DeploymentUnavailableError(DeploymentID(self.begun.model.ref))
        if self._method == "answers":
            yield Answer(self.begun, tuple(PIECES))
        elif self._method == "relayed":
            yield Elsewhere()
        else:
            yield self.begun
            yield PIECES


async def answered(router: Router, model: str) -> tuple[str, list[Any]]:
    """Who answers, and what a stream is."""
    route = router.route(model)
    answer = await router.generate(route, Ask("Hi"), None)
    return answer.begun.model.ref, [each async for each in router.stream(route, Ask("Hi"), None)]


def test_the_policy_answers_for_a_challenger_that_was_taken_away() -> None:
    policy = Handle("policy")
    router = Router([(POLICY, policy, Handle("challenger", gone=True))], None)
    assert asyncio.run(answered(router, "model")) == ("policy", [policy.begun, PIECES])
    with pytest.raises(ApiError) as told:  # asked for by its name there is nobody else
        asyncio.run(answered(router, "model@challenger"))
    assert told.value.status == 503


def test_a_challenger_answers_its_share() -> None:
    challenger = Handle("challenger")
    router = Router([(POLICY, Handle("policy"), challenger)], None)
    assert asyncio.run(answered(router, "model")) == ("challenger", [challenger.begun, PIECES])
