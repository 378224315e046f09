"""Pieces through a socket of this machine: all of them, in order, or as messages instead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from rayonale.serve import relay
from rayonale.serve.messages import Begun, Piece, Refused, TokenLogprob
from rayonale.serve.relay import Inbox, Outbox
from rayonale.serve.served_model import ServedModel

BEGUN = Begun(ServedModel("models:/m@champion", "/m/3", "m/3", "f" * 32), 7)


def pieces(of: int) -> list[list[Piece]]:
    """What a stream's engine gives, with what is hard to write down."""
    told = (TokenLogprob("é", -0.5, (("é", -0.5), ("\n", float("-inf")))),)
    found = [[Piece(0, f"{of}:{i}\n", 1), Piece(1, "\N{GRINNING FACE}", 2)] for i in range(20)]
    return [*found, [Piece(0, "", 1, told, "stop"), Piece(1, "", 0, None, "length")]]


class Response:
    """Of a streaming call."""

    def __init__(self, given: AsyncIterator[Any]) -> None:
        self._given = given

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._given

    def cancel(self) -> None:
        """The task that takes it is cancelled, which is enough here."""


class Replica:
    """A deployment's handle: its methods are called in this process, without Ray Serve between."""

    def __init__(self, elsewhere: bool = False) -> None:
        self._elsewhere, self._outbox, self.ended = elsewhere, Outbox(), 0
        self.cancelled = asyncio.Event()

    def options(self, method_name: str, stream: bool) -> Replica:
        """Of a call."""
        assert stream
        return self

    def remote(self, ask: int, path: str = "", number: int = -1) -> Any:
        """Call `relayed`, or `stream`."""
        return Response(self._relayed(ask, path, number) if path else self._stream(ask))

    async def _relayed(self, ask: int, path: str, number: int) -> AsyncIterator[Any]:
        try:
            yield await self._outbox.relay(self._stream(ask), path + "x" * self._elsewhere, number)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def _stream(self, ask: int) -> AsyncIterator[Any]:
        if ask < 0:
            yield Refused(400, "no", "no")
            return
        yield BEGUN
        for each in pieces(ask):
            yield each
            await asyncio.sleep(0.001)
        self.ended += 1


async def taken(inbox: Inbox, replica: Replica, ask: int) -> list[Any]:
    return [each async for each in inbox.received(replica, ask)]


def test_many_streams_at_a_time_come_whole_and_in_order() -> None:
    async def run() -> list[list[Any]]:
        inbox, replicas = Inbox(), [Replica(), Replica()]
        found = await asyncio.gather(*(taken(inbox, replicas[i % 2], i) for i in range(40)))
        assert inbox._folder is not None and inbox._folder.exists()
        inbox.close()
        assert not inbox._folder.exists()
        return found

    for number, found in enumerate(asyncio.run(asyncio.wait_for(run(), 30))):
        assert found == [BEGUN, *pieces(number)]


def test_a_refusal_is_handed_on_and_a_replica_elsewhere_sends_messages() -> None:
    async def run() -> tuple[list[Any], list[Any]]:
        inbox = Inbox()
        return await taken(inbox, Replica(), -1), await taken(inbox, Replica(elsewhere=True), 5)

    refused, found = asyncio.run(asyncio.wait_for(run(), 30))
    assert refused == [Refused(400, "no", "no")]
    assert found == [BEGUN, *pieces(5)]


def test_a_stream_that_nobody_takes_any_more_is_cancelled() -> None:
    async def run() -> int:
        inbox, replica = Inbox(), Replica()
        async with aclosing(inbox.received(replica, 3)) as received:
            async for each in received:
                if each != BEGUN:
                    break
        await replica.cancelled.wait()
        assert await taken(inbox, replica, 4) == [BEGUN, *pieces(4)]
        return replica.ended

    assert asyncio.run(asyncio.wait_for(run(), 30)) == 1


def test_a_stream_whose_lines_are_lost_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_LATE_S", 0.2)
    monkeypatch.setattr(relay, "_line", lambda *_: b"")

    async def run() -> None:
        await taken(Inbox(), Replica(), 1)

    with pytest.raises(relay.Lost, match="21 of 21 lines"):
        asyncio.run(asyncio.wait_for(run(), 30))
