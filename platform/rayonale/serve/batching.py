"""Requests that come while an engine works are handed to it together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Gathers items of many callers into batches; nobody waits for a batch to fill.

        first call   ── batch 1 (its items) ──────────┐
        calls 2 … 9  ── wait while batch 1 is worked on ── batch 2 (theirs together) ──┐

    Args:
        work: a batch's results, in its order.
        limit: items in one batch.
        at_once: batches worked on at a time.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Awaitable[Sequence[Result]]],
        limit: int,
        at_once: int = 1,
    ) -> None:
        self._work, self._limit = work, limit
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._free = at_once
        self._running: set[asyncio.Task[None]] = set()
        self.batches = 0  # worked on so far

    async def __call__(self, items: Sequence[Item]) -> list[Result]:
        """Results of one caller's items.

        Raises:
            Exception: whatever `work` raised for a batch that one of them was in.
        """
        loop = asyncio.get_running_loop()
        mine: list[asyncio.Future[Result]] = [loop.create_future() for _ in items]
        self._waiting += zip(items, mine, strict=True)
        loop.call_soon(self._start)  # what other callers add in this turn of the loop joins
        try:
            return list(await asyncio.gather(*mine))
        finally:
            for future in mine:
                future.cancel()  # of a caller who went away

    def _start(self) -> None:
        self._waiting = [(item, future) for item, future in self._waiting if not future.done()]
        while self._free and self._waiting:
            batch, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
            self._free -= 1
            self.batches += 1
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _run(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._work([item for item, _ in batch])
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        finally:
            self._free += 1
            self._start()
