"""Which rows make up each step, in which micro-batches, on which worker: pure arithmetic.

The order depends on (seed, epoch) alone, and a global batch on (order, step) alone: neither on
the number of workers, so a run can be sought to any step and goes on with the same batches on
another number of workers. Within a global batch, micro-batches get equal numbers of tokens.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class Groups:
    """Row numbers, group by group.

    Attributes:
        rows: those of the first group, of the second …, [rows].
        sizes: of each group, [groups].
    """

    rows: Ints
    sizes: Ints

    @staticmethod
    def of(values: Sequence[Hashable]) -> Groups:
        """Groups of rows with equal values, in the order in which values come first."""
        numbers: dict[Hashable, int] = {}
        group = np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)
        return Groups(np.argsort(group, kind="stable"), np.bincount(group))

    def rows_in(self, order: Ints) -> Ints:
        """Row numbers of all groups, in an order of the groups."""
        sizes = self.sizes[order]
        starts = np.cumsum(self.sizes)[order] - sizes
        # How far each place of the result lies from the place of its row in `rows`.
        shift = np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)
        return self.rows[np.arange(len(self.rows)) + shift]


@dataclass(frozen=True)
class Plan:
    """Steps of a run.

    Attributes:
        rows: number of rows.
        batch: rows of a global batch; the last one of an epoch may be smaller.
        steps: optimiser steps in all.
        seed: of the order.
        groups: rows that stay next to one another in every order (so in one batch, unless its edge
            falls between them); None: every row is its own.
    """

    rows: int
    batch: int
    steps: int
    seed: int
    groups: Groups | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps that see every row once."""
        return math.ceil(self.rows / self.batch)

    def global_batch(self, step: int) -> list[int]:
        """Row numbers of a step (0-based), in the seeded order of its epoch."""
        epoch, within = divmod(step, self.steps_per_epoch)
        count = self.rows if self.groups is None else len(self.groups.sizes)
        order = np.random.default_rng([self.seed, epoch]).permutation(count)
        if self.groups is not None:
            order = self.groups.rows_in(order)
        return [int(row) for row in order[within * self.batch : (within + 1) * self.batch]]


def make_plan(
    rows: int,
    batch: int,
    *,
    epochs: float | None,
    max_steps: int | None,
    seed: int,
    together: Sequence[Hashable] | None = None,
) -> Plan:
    """A plan from either a number of epochs (may be fractional) or of steps.

    Args:
        together: a value for each row; rows of equal values make a group.
    """
    per_epoch = math.ceil(rows / batch)
    steps = max_steps if max_steps is not None else max(1, round((epochs or 1) * per_epoch))
    if together is None:
        return Plan(rows, batch, steps, seed)
    return Plan(rows, batch, steps, seed, Groups.of(together))


@dataclass(frozen=True)
class MicroBatch:
    """Rows computed together; `filler` ones only keep a worker in step and weigh nothing."""

    rows: tuple[int, ...]
    filler: bool = False


def micro_batches(
    rows: Sequence[int],
    tokens: Sequence[int],
    *,
    world: int,
    max_tokens: int | None = None,
    max_rows: int | None = None,
) -> list[list[MicroBatch]]:
    """Split a global batch into micro-batches, the same number on every worker.

    Every worker must take part in every forward and backward pass (collectives of ZeRO 2 and 3),
    so workers that run out of rows get a filler.

    Args:
        rows: row numbers of the global batch.
        tokens: tokens of each of them, in the same order.
        world: number of workers.
        max_tokens: token budget of a micro-batch; a single longer row gets one of its own.
        max_rows: at most so many rows.

    Returns:
        One list for each worker; work (tokens) is spread evenly.
    """
    ordered = sorted(zip(tokens, rows, strict=True), reverse=True)
    count = world
    if max_tokens is not None:
        count = max(count, -(-sum(tokens) // max_tokens))
    if max_rows is not None:
        count = max(count, -(-len(ordered) // max_rows))
    groups = _groups(ordered, count, world, max_rows)
    while max_tokens is not None and any(
        len(group) > 1 and sum(cost for cost, _ in group) > max_tokens for group in groups
    ):
        count = len(groups) + 1
        groups = _groups(ordered, count, world, max_rows)
    made = sorted(
        ((sum(c for c, _ in g), MicroBatch(tuple(r for _, r in g))) for g in groups),
        key=lambda pair: (-pair[0], pair[1].rows),
    )
    shortest = ordered[-1]
    while len(made) % world:
        made.append((shortest[0], MicroBatch((shortest[1],), filler=True)))
    return _spread(made, world)


def _groups(
    ordered: Sequence[tuple[int, int]], count: int, world: int, max_rows: int | None
) -> list[list[tuple[int, int]]]:
    """(tokens, row) longest first, each into the group that has fewest tokens so far.

    At least `count` groups, in full rounds of `world`, as far as there are rows.
    """
    count = min(len(ordered), -(-count // world) * world)
    groups: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    open_groups = [(0, number) for number in range(count)]  # a heap of (tokens, group)
    for cost, row in ordered:
        filled, number = heapq.heappop(open_groups)
        groups[number].append((cost, row))
        if max_rows is None or len(groups[number]) < max_rows:
            heapq.heappush(open_groups, (filled + cost, number))
    return groups


def _spread(made: list[tuple[int, MicroBatch]], world: int) -> list[list[MicroBatch]]:
    """Longest first to the least loaded worker that still has room."""
    each = len(made) // world
    loads = [0] * world
    workers: list[list[MicroBatch]] = [[] for _ in range(world)]
    for cost, micro in made:
        free = [w for w in range(world) if len(workers[w]) < each]
        least = min(free, key=lambda w: (loads[w], w))
        workers[least].append(micro)
        loads[least] += cost
    return workers
