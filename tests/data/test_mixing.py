"""What a weight means, in numbers."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rayonale.data import mixing


def test_quotas():
    assert mixing.quotas([100, 30], [1, 1]) == [30, 30]
    assert mixing.quotas([100, 30], [3, 1]) == [90, 30]
    assert mixing.quotas([100, 30], [4, 1]) == [100, 25]
    assert mixing.quotas([10, 0, 10], [1, 5, 1]) == [10, 0, 10]
    assert mixing.quotas([0, 0], [1, 1]) == [0, 0]
    assert mixing.quotas([7], [0.3]) == [7]


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(0.01, 100)), min_size=1, max_size=5))
def test_quotas_are_proportional_and_one_source_gives_all(sources):
    counts, weights = map(list, zip(*sources, strict=True))
    taken = mixing.quotas(counts, weights)
    assert all(0 <= t <= n for t, n in zip(taken, counts, strict=True))
    present = [i for i, n in enumerate(counts) if n]
    if present:
        assert any(taken[i] == counts[i] for i in present)
        unit = min(counts[i] / weights[i] for i in present)
        for i in present:
            assert abs(taken[i] - unit * weights[i]) <= 1


def test_interleave():
    assert mixing.interleave([2, 4]).tolist() == [1, 0, 1, 1, 0, 1]
    assert mixing.interleave([0, 2]).tolist() == [1, 1]
    assert mixing.interleave([]).tolist() == []


@given(st.lists(st.integers(0, 50), min_size=1, max_size=4))
def test_any_beginning_of_an_interleaving_has_the_shares(taken):
    order = mixing.interleave(taken)
    assert np.bincount(order, minlength=len(taken)).tolist() == taken
    for end in range(1, len(order) + 1):
        for source, count in enumerate(taken):
            expected = end * count / len(order)
            assert abs((order[:end] == source).sum() - expected) <= len(taken)


def test_draws_are_uniform_and_follow_from_seed_and_id():
    words = np.random.default_rng(0).integers(0, 2**63, size=(10_000, 2), dtype=np.uint64)
    zero = np.zeros(10_000, dtype=np.int64)
    one = mixing.draw(words, zero, 0)
    assert (one == mixing.draw(words, zero, 0)).all()
    assert (one != mixing.draw(words, zero, 1)).all()
    assert (one != mixing.draw(words, zero + 1, 0)).all()
    assert abs((one / 2.0**64).mean() - 0.5) < 0.02
