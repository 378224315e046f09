"""Which deployment answers; the deployments' handles are called in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from rayonale.serve import presence
from rayonale.serve.errors import ApiError
from rayonale.serve.messages import Answer, Ask, Begun, Piece
from rayonale.serve.routing import Router
from rayonale.serve.served_model import ServedModel
from rayonale.serve.settings import Policy

POLICY = Policy.model_validate(
    {"name": "model", "model": "m", "challenger": {"model": "c", "share": 0.999999}}
)
PIECES = [Piece(0, "text", 1, None, "stop")]


class Response:
    """What a call gives: things, one after the other."""

    def __init__(self, things: AsyncIterator[Any], given_up: list[str]) -> None:
        self._things, self._given_up = things, given_up

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._things

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._given_up.append("call")


class About:
    """What a call of `about` gives when the deployment has gone."""

    def __init__(self, looks: list[str], gone: bool) -> None:
        self._looks, self._gone = looks, gone

    def __await__(self) -> Any:
        self._looks.append("look")
        if self._gone:
            raise DeploymentUnavailableError(DeploymentID("gone"))
        return asyncio.sleep(0.2).__await__()  # longer than a look lasts

    def cancel(self) -> None:
        """Nobody waits for it any more."""


class Handle:
    """A deployment that is there, or has been taken away.

    Args:
        gone: calls are refused.
        slow: seconds until a call gives something; gone, a call that waits already waits for ever.
    """

    def __init__(self, name: str, gone: bool = False, slow: float = 0.0) -> None:
        self.begun = Begun(ServedModel(name, name, None, name), 1)
        self.looks, self.given_up = list[str](), list[str]()
        self.gone, self.slow, self._method = gone, slow, ""

    @property
    def about(self) -> Handle:
        """Its method."""
        return self.options("about", True)

    def options(self, method_name: str, stream: bool) -> Handle:
        """Of a call."""
        assert stream
        found = Handle(self.begun.model.ref, self.gone, self.slow)
        found._method, found.looks, found.given_up = method_name, self.looks, self.given_up
        return found

    def remote(self, *_: Any) -> Any:
        """Call it."""
        if self._method == "about":
            return About(self.looks, self.gone)
        return Response(self._things(), self.given_up)

    async def _things(self) -> AsyncIterator[Any]:
        if self.gone and not self.slow:
            raise DeploymentUnavailableError(DeploymentID(self.begun.model.ref))
        await asyncio.sleep(3_600 if self.gone else self.slow)
        if self._method == "answers":
            yield Answer(self.begun, tuple(PIECES))
        else:  # as of a replica on another machine
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


def test_what_waits_for_a_challenger_that_goes_is_answered_by_the_policy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray Serve refuses later calls only: these would wait for a replica for ever."""
    monkeypatch.setattr(presence, "_LOOK_S", 0.05)
    policy, challenger = Handle("policy"), Handle("challenger", gone=True, slow=1)
    router = Router([(POLICY, policy, challenger)], None)
    assert asyncio.run(asyncio.wait_for(answered(router, "model"), 10)) == (
        "policy", [policy.begun, PIECES],
    )  # fmt: skip
    assert challenger.looks == ["look"] * 2  # one for the answer, one for the stream
    assert challenger.given_up  # what waited holds nothing any more


def test_what_takes_long_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_LOOK_S", 0.05)
    challenger = Handle("challenger", slow=0.5)
    router = Router([(POLICY, Handle("policy"), challenger)], None)

    async def after(seconds: float) -> Any:
        await asyncio.sleep(seconds)
        return await answered(router, "model")

    async def several() -> list[Any]:  # one begins a look when another's is just over
        return await asyncio.gather(*(after(0.013 * number) for number in range(8)))

    assert asyncio.run(several()) == [("challenger", [challenger.begun, PIECES])] * 8
    # About ten looks a half second for all eight, not for each.
    assert 2 <= len(challenger.looks) <= 40 and not challenger.given_up


def test_a_request_that_is_given_up_gives_up_its_call() -> None:
    challenger = Handle("challenger", slow=60)
    router = Router([(POLICY, Handle("policy"), challenger)], None)

    async def impatient(stream: bool) -> None:
        route = router.route("model")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                if stream:
                    async for _ in router.stream(route, Ask("Hi"), None):
                        pass
                else:
                    await router.generate(route, Ask("Hi"), None)

    asyncio.run(impatient(stream=False))
    assert challenger.given_up == ["call"]
    asyncio.run(impatient(stream=True))
    assert len(challenger.given_up) > 1
