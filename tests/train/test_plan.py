"""Which rows go where: order, global batches, micro-batches, learning rate."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayonale.train.plan import make_plan, micro_batches
from rayonale.train.schedule import learning_rate
from rayonale.train.trees import first_fit


def test_every_row_once_an_epoch_with_a_ragged_last_batch() -> None:
    plan = make_plan(10, 4, epochs=2, max_steps=None, seed=3)
    assert (plan.steps_per_epoch, plan.steps) == (3, 6)
    epochs = [[plan.global_batch(s) for s in range(e * 3, e * 3 + 3)] for e in range(2)]
    assert [len(batch) for batch in epochs[0]] == [4, 4, 2]
    for epoch in epochs:
        assert sorted(row for batch in epoch for row in batch) == list(range(10))
    assert epochs[0] != epochs[1]


def test_order_depends_on_seed_and_step_only() -> None:
    plan = make_plan(100, 8, epochs=None, max_steps=50, seed=1)
    assert plan.steps == 50
    assert plan.global_batch(40) == make_plan(
        100, 8, epochs=9, max_steps=None, seed=1
    ).global_batch(40)
    assert plan.global_batch(0) != make_plan(100, 8, epochs=1, max_steps=None, seed=2).global_batch(
        0
    )


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(1, 9), st.integers(0, 5))
def test_rows_of_a_group_stay_together(values: list[int], batch: int, step: int) -> None:
    """Every row once an epoch, and each value's rows in one run of the epoch's order."""
    plan = make_plan(len(values), batch, epochs=1, max_steps=None, seed=step, together=values)
    order = [row for number in range(plan.steps) for row in plan.global_batch(number)]
    assert sorted(order) == list(range(len(values)))
    seen = [values[row] for row in order]
    assert sum(a != b for a, b in pairwise(seen)) == len(set(values)) - 1


def test_pairs_of_rows_share_a_batch() -> None:
    plan = make_plan(40, 8, epochs=2, max_steps=None, seed=0, together=[n // 2 for n in range(40)])
    batches = [plan.global_batch(step) for step in range(plan.steps)]
    assert all({row ^ 1 for row in batch} == set(batch) for batch in batches)
    assert batches[0] != batches[5]


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=40),
    st.integers(1, 5),
    st.integers(50, 2_000),
    st.none() | st.integers(1, 7),
)
def test_micro_batches_hold_every_row_once(
    tokens: list[int], world: int, budget: int, most: int | None
) -> None:
    rows = [100 + i for i in range(len(tokens))]
    cost = dict(zip(rows, tokens, strict=True))
    workers = micro_batches(rows, tokens, world=world, max_tokens=budget, max_rows=most)
    assert len(workers) == world
    assert len({len(mine) for mine in workers}) == 1  # the same number of passes on each
    real = [m for mine in workers for m in mine if not m.filler]
    assert sorted(row for m in real for row in m.rows) == rows
    for m in real:
        assert len(m.rows) == 1 or sum(cost[row] for row in m.rows) <= budget
        assert most is None or len(m.rows) <= most


def test_work_is_spread_evenly() -> None:
    tokens = [100] * 8 + [50] * 16
    two = micro_batches(list(range(24)), tokens, world=2, max_tokens=200)
    loads = [sum(tokens[row] for m in mine for row in m.rows) for mine in two]
    assert loads == [800, 800]


def test_micro_batches_are_equal_too() -> None:
    """2,400 tokens under a budget of 1,000 on 2 workers: 4 of about 600, not 2 full and a rest."""
    tokens = [300, 250, 200, 200, 200, 200, 150, 150, 150, 150, 150, 100, 100, 50, 50]
    assert sum(tokens) == 2_400
    two = micro_batches(list(range(15)), tokens, world=2, max_tokens=1_000)
    loads = [[sum(tokens[row] for row in m.rows) for m in mine] for mine in two]
    assert loads == [[650, 550], [600, 600]]


def test_fewer_rows_than_workers_get_fillers() -> None:
    workers = micro_batches([5], [30], world=3)
    assert [[m.filler for m in mine] for mine in workers].count([True]) == 2
    assert all(m.rows == (5,) for mine in workers for m in mine)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=50))
def test_bins_are_no_longer_than_the_longest(lengths: list[int]) -> None:
    bins = first_fit(lengths)
    assert sorted(i for b in bins for i in b) == list(range(len(lengths)))
    assert max(sum(lengths[i] for i in b) for b in bins) == max(lengths)


def test_learning_rates_by_hand() -> None:
    def rates(**kw):
        return [learning_rate(s, steps=4, peak=1.0, **kw) for s in range(4)]

    assert rates(warmup=0, schedule="linear") == [1, 0.75, 0.5, 0.25]
    assert rates(warmup=0, schedule="constant") == [1, 1, 1, 1]
    assert rates(warmup=1, schedule="constant") == [0.5, 1, 1, 1]
    assert rates(warmup=0, schedule="cosine") == pytest.approx(
        [1, 0.853553, 0.5, 0.146447], abs=1e-6
    )
