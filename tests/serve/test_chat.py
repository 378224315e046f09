"""A stream of events whose client goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from rayonale.serve.chat import _Events

SCOPE = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "method": "POST"}


def test_a_stream_given_up_by_a_client_that_does_not_read_ends_in_the_engine() -> None:
    ended: list[str] = []

    async def received() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"piece"
        finally:
            ended.append("received")

    async def events(of: Any) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in of:
                yield piece
        finally:
            ended.append("events")

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.sleep(3_600)

    async def receive() -> Any:
        await asyncio.sleep(3_600)

    async def run() -> None:
        of = received()
        answer = asyncio.create_task(_Events(events(of), of)(SCOPE, receive, send))
        await asyncio.sleep(0.05)
        assert not ended
        answer.cancel()
        await asyncio.wait({answer})
        assert ended == ["events", "received"]  # at once, not when Python collects them

    asyncio.run(asyncio.wait_for(run(), 10))
