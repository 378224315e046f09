"""Pairs needed for a win rate: read off by hand, and unknown where nothing was measured."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayonale.evaluate.efficiency import Bounds, needed, size_for, times_fewer

SIZES = [100, 400, 1600]


def test_between_sizes_on_a_logarithmic_scale() -> None:
    # half way from 50 % at 100 to 60 % at 400 is 200, the geometric middle
    assert size_for(0.55, SIZES, [0.5, 0.6, 0.7]) == Bounds(pytest.approx(200), pytest.approx(200))
    assert size_for(0.6, SIZES, [0.5, 0.6, 0.7]).low == pytest.approx(400)


def test_a_curve_that_falls_is_made_to_rise() -> None:
    # .62 and .58 become .60 both, reached at 400
    assert size_for(0.6, SIZES, [0.5, 0.62, 0.58]).low == pytest.approx(400)


def test_outside_what_was_measured_only_bounds_are_known() -> None:
    assert size_for(0.5, SIZES, [0.55, 0.6, 0.7]) == Bounds(0.0, 100)
    assert size_for(0.8, SIZES, [0.5, 0.6, 0.7]) == Bounds(1600, math.inf)


@pytest.mark.parametrize(
    ("one", "other", "quotient"),
    [
        (Bounds(300, 300), Bounds(100, 100), Bounds(3, 3)),
        (Bounds(1600, math.inf), Bounds(400, 400), Bounds(4, math.inf)),  # never reached
        (Bounds(300, 300), Bounds(0, 100), Bounds(3, math.inf)),  # reached before the first size
        (Bounds(0, 100), Bounds(400, 400), Bounds(0, 0.25)),
        (Bounds(1600, math.inf), Bounds(1600, math.inf), Bounds(0, math.inf)),  # nothing known
        (Bounds(0, 100), Bounds(0, 100), Bounds(0, math.inf)),
        (Bounds(200, 200), Bounds(1600, math.inf), Bounds(0, 0.125)),
    ],
)
def test_quotients_of_bounds(one: Bounds, other: Bounds, quotient: Bounds) -> None:
    assert one.over(other) == quotient


def test_interval_from_draws_and_infinity_as_none() -> None:
    means = np.array([0.5, 0.6, 0.7])
    draws = means + np.linspace(-0.12, 0.05, 101)[:, None]
    found = needed(0.6, SIZES, means, draws, level=0.9)
    assert found.value_low == found.value_high == pytest.approx(400)
    # the 95th of 100 curves from below is .042 higher: .6 lies .058 of the way's .1 above .5
    assert found.low == pytest.approx(100 * 4 ** (0.0585 / 0.1), rel=0.01)
    assert found.high is None  # over 5 % of the curves end below 60 %
    never = needed(0.9, SIZES, means, draws)
    assert (never.value_low, never.value_high, never.low, never.high) == (1600, None, 1600, None)


def test_times_fewer_is_paired_draw_by_draw() -> None:
    """Where one curve is the other four times earlier, the quotient is 4 in each draw."""
    slow, fast = np.array([0.5, 0.55, 0.6]), np.array([0.55, 0.6, 0.65])
    shift = np.linspace(-0.02, 0.02, 41)[:, None]
    found = times_fewer(
        0.575, (SIZES, SIZES), (slow, fast), (slow + shift, fast + shift), level=0.95
    )
    assert found.value_low == found.value_high == pytest.approx(4)
    assert found.low == pytest.approx(4) and found.high == pytest.approx(4)


@given(
    st.lists(st.floats(0.4, 0.9), min_size=3, max_size=3), st.floats(0.45, 0.85), st.floats(0, 0.05)
)
def test_a_higher_target_needs_no_fewer_pairs(
    rates: list[float], target: float, more: float
) -> None:
    one, other = size_for(target, SIZES, rates), size_for(target + more, SIZES, rates)
    assert one.low <= other.low * (1 + 1e-9) and one.high <= other.high * (1 + 1e-9)
