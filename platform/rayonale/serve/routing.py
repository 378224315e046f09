"""From a model's name to the deployment that answers, and once more when its replica died."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from rayonale.serve import relay
from rayonale.serve.errors import ApiError
from rayonale.serve.messages import About, Answer, Ask, Begun, Piece, Refused, Scored
from rayonale.serve.presence import Presence
from rayonale.serve.relay import Inbox, Lost
from rayonale.serve.settings import Policy

log = logging.getLogger("rayonale")
T = TypeVar("T")
_CHALLENGER = "@challenger"


@dataclass(frozen=True)
class Route:
    """Where a model's requests go.

    Attributes:
        policy: the model, or the one whose adapter it is.
        handle: of the policy's deployment.
        challenger: of the one that gets a share.
        adapter: name of the adapter, if the model is one.
    """

    policy: Policy
    handle: Any
    challenger: Any = None
    adapter: str | None = None


class Router:
    """The application's deployments by what requests call them.

    Args:
        policies: settings of each policy, its handle and its challenger's.
        oracle: name and handle of the oracle; None when there is none.
    """

    def __init__(
        self, policies: list[tuple[Policy, Any, Any]], oracle: tuple[str, Any] | None
    ) -> None:
        self.routes: dict[str, Route] = {}
        for policy, handle, challenger in policies:
            self.routes[policy.name] = Route(policy, handle, challenger)
            if challenger is not None:  # to be asked for by name, too
                self.routes[policy.name + _CHALLENGER] = Route(policy, challenger)
            for adapter in policy.adapters:
                self.routes[adapter.name] = Route(policy, handle, None, adapter.name)
        self._oracle, self._inbox = oracle, Inbox()
        handles = [handle for _, *both in policies for handle in both if handle is not None]
        handles += [oracle[1]] if oracle is not None else []
        self._presence = {id(handle): Presence(handle) for handle in handles}

    @property
    def has_oracle(self) -> bool:
        """Whether rewards can be had here."""
        return self._oracle is not None

    @property
    def oracle_name(self) -> str:
        """What the oracle is called."""
        return self._the_oracle()[0]

    def route(self, model: str) -> Route:
        """Where a model's requests go.

        Raises:
            ApiError: 404, no such model.
        """
        if model not in self.routes:
            told = f"no model of that name; models: {', '.join(self.routes) or 'none'}"
            raise ApiError(404, "model_not_found", told, "model")
        return self.routes[model]

    def judges(self, model: str) -> bool:
        """Whether a model answers requests for judgements."""
        return model in self.routes and self.routes[model].policy.judge is not None

    async def generate(self, route: Route, ask: Ask, user: str | None) -> Answer:
        """A request's samples."""
        handles = _chosen(route, user)
        for handle in handles:
            try:
                return _or_raise(await self._answer(handle, ask))
            except _Unavailable:
                if handle is handles[-1]:
                    raise
                log.warning("%s answers for its challenger, which is not there", route.policy.name)
        raise AssertionError("unreachable")

    async def _answer(self, handle: Any, ask: Ask) -> Answer | Refused:
        calling = handle.options(method_name="answers", stream=True)
        waited = self._presence[id(handle)].waited
        found: Answer | Refused = await _once_more(lambda: waited(relay.only(calling.remote(ask))))
        return found

    async def stream(
        self, route: Route, ask: Ask, user: str | None
    ) -> AsyncIterator[Begun | list[Piece]]:
        """A request's samples as they come; tried once more while nothing has come.

        Raises:
            ApiError: the request was refused, or the replica died in the middle.
        """
        handles = _chosen(route, user)
        for handle in handles:
            try:
                async with aclosing(self._streamed(handle, ask)) as pieces:
                    async for each in pieces:
                        yield each
                return
            except _Unavailable:  # raised before anything has come
                if handle is handles[-1]:
                    raise
                log.warning("%s answers for its challenger, which is not there", route.policy.name)

    async def _streamed(self, handle: Any, ask: Ask) -> AsyncGenerator[Begun | list[Piece], None]:
        """A stream of one deployment; tried once more while nothing has come."""
        for last in (False, True):
            got_text = False
            begun: Begun | None = None
            try:
                async with (
                    aclosing(self._inbox.received(handle, ask)) as received,
                    aclosing(_watched(self._presence[id(handle)], received)) as watched,
                ):
                    async for each in watched:
                        if isinstance(each, Begun):
                            begun = each  # told with the first text: until then another may answer
                            continue
                        if begun is not None:
                            yield _or_raise(begun)
                            begun = None
                        got_text = got_text or not isinstance(each, Refused)
                        yield _or_raise(each)
                if begun is None:
                    return
                raise _died()  # the engine ended it without a word
            except (RayActorError, Lost) as error:
                log.warning("a replica died under a stream (%s)", type(error).__name__)
                if got_text or last:
                    raise _died() from error
            except BackPressureError as error:
                raise _queue_full() from error
            except DeploymentUnavailableError as error:
                raise _Unavailable() from error

    def close(self) -> None:
        """Remove what this object has put on the disk."""
        self._inbox.close()

    async def score(self, conversations: list[list[Any]]) -> Scored:
        """Rewards of conversations."""
        handle = self._the_oracle()[1]
        found: Scored | Refused = await self._called(handle, "score", conversations)
        return _or_raise(found)

    async def score_rendered(self, texts: list[str]) -> Scored:
        """Rewards of rendered conversations."""
        handle = self._the_oracle()[1]
        found: Scored | Refused = await self._called(handle, "score_rendered", texts)
        return _or_raise(found)

    async def _called(self, handle: Any, method: str, *given: Any) -> Any:
        """A method's result, of a deployment that is there."""
        called, waited = getattr(handle, method), self._presence[id(handle)].waited
        return await _once_more(lambda: waited(_given(called.remote(*given))))

    async def about(self) -> dict[str, About]:
        """What each model is served by; challengers are called `<policy>@challenger`.

        Raises:
            ApiError: 503, one of them does not answer.
        """
        asked = {name: route.handle for name, route in self.routes.items()}
        if self._oracle is not None:
            asked[self._oracle[0]] = self._oracle[1]

        async def told(name: str, handle: Any) -> About | None:
            try:
                about: About = await self._called(handle, "about")
                return about
            except _Unavailable:
                if name.endswith(_CHALLENGER):  # its policy answers for it
                    return None
                raise

        found = await asyncio.gather(*(told(*each) for each in asked.items()))
        return {name: about for name, about in zip(asked, found, strict=True) if about is not None}

    def _the_oracle(self) -> tuple[str, Any]:
        if self._oracle is None:
            raise ApiError(404, "no_oracle", "this service has no oracle: there are no rewards")
        return self._oracle


def _chosen(route: Route, user: str | None) -> tuple[Any, ...]:
    """The deployments to ask in turn: the policy's, or its challenger's first.

    One user always goes the same way. The policy answers for a challenger that has been taken away:
    while a service is updated, the endpoint of before goes on taking requests for it.
    """
    if route.challenger is None:
        return (route.handle,)
    assert route.policy.challenger is not None
    drawn = random.random()
    if user is not None:
        digest = hashlib.sha256(f"{route.policy.name}\0{user}".encode()).digest()
        drawn = int.from_bytes(digest[:8], "big") / 2**64
    mine = drawn < route.policy.challenger.share
    return (route.challenger, route.handle) if mine else (route.handle,)


async def _watched(
    presence: Presence, received: AsyncGenerator[T, None]
) -> AsyncGenerator[T, None]:
    """What is received, of a deployment that is there until the first of it has come."""
    first = await presence.waited(anext(received, None))
    if first is not None:
        yield first
        async for each in received:
            yield each


async def _given(response: Any) -> Any:
    """A call's result; a call that nobody waits for any more is given up."""
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()  # by itself, a call that goes by gRPC is worked on to its end
        raise


async def _once_more(call: Callable[[], Awaitable[T]]) -> T:
    """A call's result; when the replica dies under it, another one's."""
    for last in (False, True):
        try:
            return await call()
        except RayActorError as error:
            log.warning("a replica died under a request (%s)", type(error).__name__)
            if last:
                raise _died() from error
        except BackPressureError as error:
            raise _queue_full() from error
        except DeploymentUnavailableError as error:
            raise _Unavailable() from error
    raise AssertionError("unreachable")


def _or_raise(found: T | Refused) -> T:
    if isinstance(found, Refused):
        raise ApiError(found.status, found.code, found.message, found.param)
    return found


def _died() -> ApiError:
    return ApiError(503, "replica_died", "the model's process died; try again")


def _queue_full() -> ApiError:
    return ApiError(429, "queue_full", "the model's queue is full; try again later")


class _Unavailable(ApiError):
    """A deployment that cannot be started, or has been taken away."""

    def __init__(self) -> None:
        told = "the model cannot be started; see the service's log"
        super().__init__(503, "unavailable", told)
