"""Pieces through a socket of this machine: all of them, in order, or as messages instead."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
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

    def __init__(self, given: AsyncIterator[Any], cancelled: list[str]) -> None:
        self._given, self._cancelled = given, cancelled

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._given

    def cancel(self) -> None:
        """Nobody takes it any more: by Ray Serve, only this ends what the replica does."""
        self._cancelled.append("call")


class Replica:
    """A deployment's handle: its methods are called in this process, without Ray Serve between."""

    def __init__(self, elsewhere: bool = False) -> None:
        self._elsewhere, self.outbox, self.ended = elsewhere, Outbox(), 0
        self.given_up = list[str]()
        self.cancelled = asyncio.Event()

    def options(self, method_name: str, stream: bool) -> Replica:
        """Of a call."""
        assert stream
        return self

    def remote(self, ask: int, path: str = "", number: int = -1) -> Any:
        """Call `relayed`, or `stream`."""
        given = self._relayed(ask, path, number) if path else self._stream(ask)
        return Response(given, self.given_up)

    async def _relayed(self, ask: int, path: str, number: int) -> AsyncIterator[Any]:
        try:
            stream = self._stream(ask)
            async for each in self.outbox.relay(stream, path + "x" * self._elsewhere, number):
                yield each
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
    far = Replica(elsewhere=True)

    async def run() -> tuple[list[Any], list[Any], list[Any]]:
        inbox = Inbox()
        near, distant = await taken(inbox, Replica(), -1), await taken(inbox, far, -1)
        return near, distant, await taken(inbox, far, 5)

    near, distant, found = asyncio.run(asyncio.wait_for(run(), 30))
    assert near == distant == [Refused(400, "no", "no")]
    assert found == [BEGUN, *pieces(5)]
    assert far.ended == 1  # drawn in one call


def test_a_stream_that_nobody_takes_any_more_is_cancelled() -> None:
    async def run() -> int:
        inbox, replica = Inbox(), Replica()
        async with aclosing(inbox.received(replica, 3)) as received:
            async for each in received:
                if each != BEGUN:
                    break
        await replica.cancelled.wait()
        assert replica.given_up
        assert await taken(inbox, replica, 4) == [BEGUN, *pieces(4)]
        far = Replica(elsewhere=True)
        async with aclosing(inbox.received(far, 3)) as received:
            async for _ in received:
                break
        assert far.given_up == ["call"]
        return replica.ended

    assert asyncio.run(asyncio.wait_for(run(), 30)) == 1


def test_a_stream_whose_lines_are_lost_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_LATE_S", 0.2)
    monkeypatch.setattr(relay, "_line", lambda *_: b"")

    async def run() -> None:
        await taken(Inbox(), Replica(), 1)

    with pytest.raises(relay.Lost, match="21 of 21 lines"):
        asyncio.run(asyncio.wait_for(run(), 30))


def test_a_connection_that_breaks_is_told_so_and_another_made() -> None:
    async def run() -> None:
        inbox, replica = Inbox(), Replica()
        broken = asyncio.create_task(taken(inbox, replica, 1))
        while not replica.outbox._open:
            await asyncio.sleep(0)
        for _, writer in replica.outbox._open.values():
            writer.transport.abort()
        with pytest.raises(relay.Lost, match="broke"):
            await broken
        assert await taken(inbox, replica, 2) == [BEGUN, *pieces(2)]

    asyncio.run(asyncio.wait_for(run(), 30))


def test_connections_to_endpoints_that_have_gone_are_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[asyncio.BaseTransport] = []
    monkeypatch.setattr(
        relay.Lines, "connection_made", lambda _, line: lines.append(line), raising=False
    )

    async def run() -> None:
        replica = Replica()
        for number in range(3):
            inbox = Inbox()
            assert await taken(inbox, replica, number) == [BEGUN, *pieces(number)]
            assert len(replica.outbox._alive()) == 1
            for line in lines:
                line.close()
            await asyncio.sleep(0.05)
            assert not replica.outbox._alive()
            inbox.close()

    asyncio.run(asyncio.wait_for(run(), 30))


def test_without_a_socket_streams_come_as_messages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / ("long" * 40)  # a socket's path has at most some hundred characters
    folder.mkdir()
    monkeypatch.setattr(relay, "_PLACE", str(folder))

    async def run() -> list[Any]:
        inbox = Inbox()
        return [await taken(inbox, Replica(), number) for number in (1, 2)]

    found = asyncio.run(asyncio.wait_for(run(), 30))
    assert found == [[BEGUN, *pieces(1)], [BEGUN, *pieces(2)]]
    assert caplog.text.count("there is no socket") == 1


def test_folders_of_killed_endpoints_are_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(relay, "_PLACE", str(tmp_path))
    left, making = tmp_path / f"{relay._PREFIX}left", tmp_path / f"{relay._PREFIX}making"
    for each in (left, making):
        each.mkdir()
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(left / "socket"))

    async def run() -> None:
        one, other = Inbox(), Inbox()
        assert await taken(one, Replica(), 1) == [BEGUN, *pieces(1)]
        assert await taken(other, Replica(), 1) == [BEGUN, *pieces(1)]
        assert one._folder is not None and one._folder.exists()  # its endpoint listens

    asyncio.run(asyncio.wait_for(run(), 30))
    assert not left.exists() and making.exists()
