"""Items of many callers share batches."""

from __future__ import annotations

import asyncio

import pytest

from rayonale.serve.batching import Batcher


def test_what_comes_while_a_batch_is_worked_on_makes_the_next_one() -> None:
    seen: list[list[int]] = []

    async def work(items: list[int]) -> list[int]:
        seen.append(items)
        await asyncio.sleep(0.02)
        return [item * 10 for item in items]

    async def main() -> list[list[int]]:
        batcher: Batcher[int, int] = Batcher(work, limit=4)
        first = asyncio.create_task(batcher([1]))
        await asyncio.sleep(0.01)
        rest = [asyncio.create_task(batcher(items)) for items in ([2, 3], [4], [5, 6])]
        return [await task for task in (first, *rest)]

    assert asyncio.run(main()) == [[10], [20, 30], [40], [50, 60]]
    assert seen == [[1], [2, 3, 4, 5], [6]]  # at most four at a time


def test_a_caller_who_goes_away_takes_nothing_of_the_others() -> None:
    async def work(items: list[int]) -> list[int]:
        await asyncio.sleep(0.02)
        return items

    async def main() -> list[int]:
        batcher: Batcher[int, int] = Batcher(work, limit=8)
        running = asyncio.create_task(batcher([1, 2]))
        await asyncio.sleep(0.005)
        gone, stays = asyncio.create_task(batcher([3])), asyncio.create_task(batcher([4]))
        await asyncio.sleep(0.005)
        gone.cancel()
        return [*await running, *await stays]

    assert asyncio.run(main()) == [1, 2, 4]


def test_a_batch_that_fails_fails_its_callers_and_no_later_ones() -> None:
    async def work(items: list[int]) -> list[int]:
        if 0 in items:
            raise ValueError("zero")
        return items

    async def main() -> None:
        batcher: Batcher[int, int] = Batcher(work, limit=1)
        with pytest.raises(ValueError, match="zero"):
            await batcher([0])
        assert await batcher([1]) == [1]

    asyncio.run(main())
