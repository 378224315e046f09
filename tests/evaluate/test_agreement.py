"""Measures of agreement: by hand, and equal to scipy's and scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from rayonale.evaluate import agreement

A = np.array([1.0, 2, 3, 4, 5, 5])
B = np.array([1.0, 3, 3, 2, 5, 4])


def test_by_hand() -> None:
    assert agreement.accuracy(A, B) == pytest.approx(3 / 6)
    assert agreement.within_one(A, B) == pytest.approx(5 / 6)
    assert agreement.mean_error(A, B) == pytest.approx((0 + 1 + 0 + 2 + 0 + 1) / 6)
    # a tie against a choice counts half, opposite choices nothing
    told, label = np.array([1, 2, 1.5, 1.5]), np.array([1, 1, 1, 1.5])
    assert agreement.tie_aware(told, label) == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert agreement.swap_consistency(told, label) == pytest.approx(2 / 4)
    assert agreement.settled(np.array([1.2, 1.5, 1.9]), True).tolist() == [1, 1.5, 2]
    assert agreement.settled(np.array([1.2, 3.6]), False).tolist() == [1, 4]


def test_fleiss_by_hand() -> None:
    """Two items, three raters: all agree on one, two of three on the other."""
    labels = [["a", "a", "a"], ["a", "b", "b"]]
    agreed = (1 + 1 / 3) / 2
    chance = (4 / 6) ** 2 + (2 / 6) ** 2
    assert agreement.fleiss_kappa(labels) == pytest.approx((agreed - chance) / (1 - chance))
    assert agreement.fleiss_kappa([["a", "a"], ["a", "a"]]) is None
    with pytest.raises(ValueError, match="M ≥ 2"):
        agreement.fleiss_kappa([["a"]])
    with pytest.raises(ValueError, match="M ≥ 2"):
        agreement.fleiss_kappa([["a", "b"], ["a", "b", "c"]])


_SCORES = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=3, max_size=40)


@settings(deadline=None)  # scikit-learn is slow the first time
@given(_SCORES)
def test_equal_to_libraries(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs, float).T
    assume(np.ptp(a) > 0 and np.ptp(b) > 0)
    assert agreement.pearson(a, b) == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-9)
    assert agreement.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-9)
    assert agreement.kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic, abs=1e-9)
    names = [1, 2, 3, 4, 5]
    assert agreement.kappa(a, b) == pytest.approx(cohen_kappa_score(a, b, labels=names), abs=1e-9)
    assert agreement.quadratic_kappa(a, b) == pytest.approx(
        cohen_kappa_score(a, b, weights="quadratic", labels=names), abs=1e-9
    )


def test_undefined_is_none_and_never_zero() -> None:
    flat, none = np.array([3.0, 3.0]), np.array([])
    for measure in agreement.MEASURES.values():
        assert measure(none, none) is None
    for name in ("pearson", "spearman", "kendall"):
        assert agreement.MEASURES[name](flat, np.array([1.0, 2.0])) is None
    assert agreement.kappa(flat, flat) is None and agreement.quadratic_kappa(flat, flat) is None
    found = agreement.interval(agreement.pearson, flat, flat)
    assert (found.value, found.low, found.high, found.inputs) == (None, None, None, 2)


def test_intervals_hold_their_value_and_are_the_same_again() -> None:
    rng = np.random.default_rng(3)
    label = rng.integers(1, 6, 300).astype(float)
    told = np.clip(label + rng.integers(-1, 2, 300), 1, 5)
    found = agreement.interval(agreement.pearson, told, label)
    assert found == agreement.interval(agreement.pearson, told, label)
    assert found.low is not None and found.high is not None and found.value is not None
    assert found.low < found.value < found.high < 1
    # twice the inputs, about √2 narrower
    more = agreement.interval(agreement.accuracy, np.tile(told, 4), np.tile(label, 4))
    less = agreement.interval(agreement.accuracy, told, label)
    assert more.high - more.low == pytest.approx((less.high - less.low) / 2, rel=0.2)  # type: ignore[operator]
    with pytest.raises(ValueError, match="same"):
        agreement.interval(agreement.accuracy, told, label[:5])


def test_differences_are_paired() -> None:
    """Two judges that are wrong on the same inputs do not differ, however few the inputs are."""
    label = np.array([1.0, 2, 3, 4] * 10)
    one = np.where(np.arange(40) % 5 == 0, 5.0, label)
    apart = agreement.difference(agreement.accuracy, one, one, label)
    assert (apart.value, apart.low, apart.high) == (0, 0, 0)
    better = agreement.difference(agreement.accuracy, label, one, label)
    assert better.value == pytest.approx(8 / 40)
    assert better.low is not None and better.low > 0
