"""Outputs on their way from the engine's thread to a stream."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rayonale.serve.policy import Arrivals, PolicyReplica
from rayonale.serve.settings import Policy


def test_all_that_another_thread_puts_is_taken_in_order_until_the_end() -> None:
    async def take() -> list[int]:
        arrivals, found = Arrivals(asyncio.get_running_loop()), []

        def engine() -> None:
            for number in range(2_000):
                arrivals.put([(0, number)])
                if number % 97 == 0:
                    time.sleep(0.001)  # so that the taker waits now and then
            arrivals.end()

        thread = threading.Thread(target=engine)
        thread.start()
        while came := await arrivals.taken():
            found += [number for _, number in came]
        thread.join()
        return found

    assert asyncio.run(asyncio.wait_for(take(), 30)) == list(range(2_000))


def test_an_end_without_outputs_ends_the_waiting_and_a_pause() -> None:
    async def wait() -> float:
        arrivals = Arrivals(asyncio.get_running_loop())
        threading.Timer(0.05, arrivals.end).start()
        begun = time.monotonic()
        assert await arrivals.taken() == []
        await arrivals.pause(20)
        return time.monotonic() - begun

    assert asyncio.run(wait()) < 10


def test_a_pause_lets_outputs_pile_up() -> None:
    async def pile() -> list[tuple[int, str]]:
        arrivals = Arrivals(asyncio.get_running_loop())
        arrivals.put([(0, "a")])
        arrivals.put([(1, "b")])
        await arrivals.pause(0.01)
        arrivals.put([(0, "c")])
        return await arrivals.taken()

    assert asyncio.run(pile()) == [(0, "a"), (1, "b"), (0, "c")]


@pytest.mark.parametrize(
    ("step_s", "streams", "every"),
    [
        (0.005, 0, 2),  # a pause of 50 ms: 10 tokens in it, a quarter of them
        (0.005, 32, 12),  # of 32 · 8 ms: 51 tokens
        (0.05, 1, 1),  # slower than that: each
        (0.0, 0, 12),  # before the first step: a millisecond is taken
    ],
)
def test_the_engine_tells_of_what_a_quarter_of_a_pause_draws(
    step_s: float, streams: int, every: int
) -> None:
    replica = object.__new__(PolicyReplica)
    replica._settings = Policy(name="m", model="m", stream_interval_ms=50, stream_message_ms=8)
    replica._streams, replica._engine = streams, cast(Any, SimpleNamespace(step_s=step_s))
    assert replica._every() == every
