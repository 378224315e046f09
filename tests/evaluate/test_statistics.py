"""Arithmetic by hand, extremes, and the coverage that intervals promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rayonale.evaluate.statistics import (
    by_prompt,
    cohen_kappa,
    mean_interval,
    outcome,
    sign_flip_test,
    win_rate,
)


def test_outcome_counts_a_tie_half() -> None:
    assert [outcome(3, 2), outcome(2, 3), outcome(2, 2)] == [1.0, 0.0, 0.5]
    with pytest.raises(ValueError, match="expected finite numbers"):
        outcome(math.nan, 1)


def test_repeats_are_averaged_by_prompt_first() -> None:
    # p wins once of two, q wins always: by prompt (0.5 + 1 + 1) / 3, by row it would be 7/8
    outcomes, prompts = [1, 0, 1, 1, 1, 1, 1, 1], ["p", "p", "q", "q", "q", "q", "q", "r"]
    assert by_prompt(outcomes, prompts) == {"p": 0.5, "q": 1.0, "r": 1.0}
    estimate = win_rate(outcomes, prompts)
    assert estimate.value == pytest.approx(2.5 / 3)
    assert estimate.prompts == 3


def test_win_rate_by_hand() -> None:
    # 6 wins, 2 ties, 2 losses of 10 prompts: (6 + 2 / 2) / 10
    estimate = win_rate([1.0] * 6 + [0.5] * 2 + [0.0] * 2, range(10))
    assert estimate.value == pytest.approx(0.7)
    assert estimate.low < 0.7 < estimate.high


def test_interval_of_a_share_is_the_binomial_quantile() -> None:
    # resampling 30 ones of 100 draws Binomial(100, 0.3): its quantiles are known
    estimate = mean_interval([1.0] * 30 + [0.0] * 70, resamples=50_000)
    exact = stats.binom.ppf([0.025, 0.975], 100, 0.3) / 100
    assert (estimate.low, estimate.high) == pytest.approx(tuple(exact), abs=0.011)


def test_interval_equals_scipys_percentile_bootstrap() -> None:
    values = np.random.default_rng(5).normal(3, 2, size=60)
    ours = mean_interval(values, resamples=20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", random_state=1
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_same_seed_same_interval() -> None:
    values = np.random.default_rng(1).random(50)
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3)
    assert mean_interval(values, seed=3) != mean_interval(values, seed=4)


def test_shift_and_scale_move_the_interval_along() -> None:
    values = np.random.default_rng(1).random(40)
    plain, moved = mean_interval(values), mean_interval(values * 10 + 1e6)
    assert (moved.low - 1e6) / 10 == pytest.approx(plain.low, abs=1e-6)
    assert (moved.high - 1e6) / 10 == pytest.approx(plain.high, abs=1e-6)


def test_five_wins_of_five_are_not_certainty() -> None:
    estimate = win_rate([1.0] * 5, range(5))
    # Wilson: 1 / (1 + z²/n) = 1 / (1 + 3.8415 / 5)
    assert (estimate.value, estimate.high) == (1.0, 1.0)
    assert estimate.low == pytest.approx(1 / (1 + 3.8415 / 5), abs=1e-4)
    half = win_rate([0.5] * 5, range(5))
    assert half.low < 0.2 and half.high > 0.8


def test_one_value_without_bounds_is_a_point() -> None:
    estimate = mean_interval([7.0])
    assert (estimate.low, estimate.value, estimate.high) == (7.0, 7.0, 7.0)


@pytest.mark.parametrize("bad", [[], [math.nan], [math.inf, 1.0]])
def test_nothing_and_not_finite_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="expected|not finite"):
        mean_interval(bad)
    with pytest.raises(ValueError, match="level"):
        mean_interval([1.0, 2.0], level=95)


def test_outcomes_outside_0_to_1_are_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        win_rate([2.0], ["p"])


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    # 400 studies of 80 prompts with P(win) 0.5, P(tie) 0.2: the true win rate is 0.6
    rng = np.random.default_rng(0)
    covered = 0
    for study in range(400):
        drawn = rng.choice([1.0, 0.5, 0.0], p=[0.5, 0.2, 0.3], size=80)
        estimate = mean_interval(drawn, seed=study, resamples=1_000, bounds=(0, 1))
        covered += estimate.low <= 0.6 <= estimate.high
    assert 0.91 <= covered / 400 <= 0.98


def test_sign_flip_by_hand() -> None:
    # all 2^3 sign patterns of (1, 2, 3): |sum| ≥ 6 in 2 of 8
    assert sign_flip_test([1, 2, 3]) == 0.25
    # of (1, 1, -1): |sum| ≥ 1 always
    assert sign_flip_test([1, 1, -1]) == 1.0
    assert sign_flip_test([0.0, 0.0]) == 1.0
    assert sign_flip_test([]) == 1.0


def test_sign_flip_of_outcomes_is_the_sign_test() -> None:
    # 14 wins and 4 losses: two-sided binomial; 2^18 patterns, so Monte Carlo
    differences = [0.5] * 14 + [-0.5] * 4 + [0.0] * 7
    exact = stats.binomtest(14, 18).pvalue
    assert sign_flip_test(differences, resamples=40_000) == pytest.approx(exact, abs=0.005)


def test_sign_flip_is_never_zero_and_ignores_float_noise() -> None:
    assert sign_flip_test([1.0] * 60) == pytest.approx(1 / 10_000)
    # 0.1 + 0.2 - 0.3 is not 0 in floats: the observed sum is still as extreme as itself
    assert sign_flip_test([0.1, 0.2, -0.3]) == 1.0


def test_sign_flip_is_uniform_without_an_effect() -> None:
    rng = np.random.default_rng(2)
    found = [sign_flip_test(rng.normal(size=25), seed=s, resamples=499) for s in range(300)]
    assert 0.01 <= np.mean(np.array(found) <= 0.05) <= 0.09


def test_kappa_by_hand() -> None:
    # agreed 3 of 4; chance: 0.5 · 0.75 + 0.5 · 0.25 = 0.5; κ = (0.75 − 0.5) / 0.5
    assert cohen_kappa([1, 1, 0, 0], [1, 1, 1, 0]) == pytest.approx(0.5)
    assert cohen_kappa([1, 1], [1, 1]) is None
    with pytest.raises(ValueError, match="same N"):
        cohen_kappa([1], [])
