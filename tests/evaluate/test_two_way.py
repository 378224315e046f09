"""Intervals over seeds and prompts, by hand on small tables and by simulation on random ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rayonale.evaluate.two_way import draws_of_means, holm, mean_of, variance_of_mean


def table(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float64)


def test_variance_by_hand_without_interaction() -> None:
    # means of seeds ¾, ¼: variance ⅛, of their mean 1/16; the same for prompts; residuals are 0
    # (1 − ¾ − ¾ + ½ = 0 …), so 1/16 + 1/16 = ⅛ with (⅛)² / (2 · (1/16)²) = 2 degrees of freedom
    found = table([1, 0.5], [0.5, 0])
    assert variance_of_mean(found) == pytest.approx((1 / 8, 2))
    mean = mean_of(found, null=0.0)
    half = 4.3026527 * math.sqrt(1 / 8)  # t quantile of 2 degrees of freedom
    assert (mean.low, mean.high) == pytest.approx((0.5 - half, 0.5 + half))
    assert mean.by_seed == (0.75, 0.25) and (mean.seeds, mean.prompts) == (2, 2)
    assert mean.p_value == pytest.approx(2 * stats.t.sf(0.5 / math.sqrt(1 / 8), 2))


def test_variance_by_hand_with_residuals() -> None:
    # seeds' means ⅔, 0; prompts' means 1, 0, 0 and ½, ½, 0 …
    found = table([1, 1, 0], [0, 0, 0])
    of_seeds = (2 * (1 / 3) ** 2) / 1 / 2  # = 1/9
    of_prompts = np.var([0.5, 0.5, 0], ddof=1) / 3  # = 1/36
    # residuals ±1/6, ±1/6, ±1/3: sum of squares 4/36 + 2/9 = 1/3, over 2 degrees, over 6 values
    residual = (1 / 3) / 2 / 6  # = 1/36
    assert of_seeds + of_prompts - residual == pytest.approx(1 / 9)
    assert variance_of_mean(found)[0] == pytest.approx(1 / 9)


def test_the_larger_part_alone_is_the_least_that_is_taken() -> None:
    # [[1, 0], [0, 0]]: seeds 1/16, prompts 1/16, residuals 1/16: their sum would be 1/16 again
    assert variance_of_mean(table([1, 0], [0, 0])) == pytest.approx((1 / 16, 1))
    # pure interaction: means of seeds and prompts are all ½, nothing is known to vary
    assert variance_of_mean(table([1, 0], [0, 1])) == pytest.approx((0, 1))


def test_one_seed_is_an_interval_over_prompts() -> None:
    mean = mean_of(table([1, 1, 0, 1, 0.5, 1, 1, 0]), bounds=(0, 1))
    assert (mean.low, mean.high) == (mean.prompts_low, mean.prompts_high)
    assert mean.seeds == 1 and 0 < mean.p_value < 1


def test_equal_values_do_not_claim_certainty() -> None:
    mean = mean_of(np.ones((3, 5)), bounds=(0, 1))
    assert mean.value == 1 and mean.low == pytest.approx(0.5655, abs=1e-4)  # Wilson, 5 of 5
    assert mean.p_value == 2 / 2**5  # sign flips of five equal differences


def test_seeds_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(3, 200)) * 0.3
    same, apart = 0.6 + noise, 0.6 + noise + np.array([[-0.2], [0.0], [0.2]])
    first, second = mean_of(same), mean_of(apart)
    assert second.high - second.low > 5 * (first.high - first.low)
    assert second.prompts_high - second.prompts_low == pytest.approx(
        first.prompts_high - first.prompts_low
    )


@pytest.mark.parametrize(("of_seeds", "of_prompts"), [(0.05, 0.3), (0.3, 0.1), (0.0, 0.4)])
def test_intervals_hold_for_other_seeds_and_prompts(of_seeds: float, of_prompts: float) -> None:
    """Three seeds, forty prompts, both random: 95 % intervals hold the truth 95 % of the time."""
    rng, held, tries = np.random.default_rng(1), 0, 600
    for _ in range(tries):
        found = (
            rng.normal(0, of_seeds, (3, 1)) + rng.normal(0, of_prompts, (1, 40))
            + rng.normal(0, 0.4, (3, 40))
        )  # fmt: skip
        variance, freedom = variance_of_mean(found)
        held += abs(found.mean()) < stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    assert 0.93 <= held / tries <= 0.995  # wider than needed is allowed, narrower is not


def test_values_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \[S, P\]"):
        mean_of(np.ones(3))
    with pytest.raises(ValueError, match="not finite"):
        mean_of(table([1, math.nan]))


def test_holm_by_hand() -> None:
    # ascending .01, .03, .04 times 3, 2, 1: .03, .06, .04 → never smaller than the one before
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_between_p_and_bonferroni(p_values: list[float]) -> None:
    for adjusted, p in zip(holm(p_values), p_values, strict=True):
        assert p <= adjusted <= min(1.0, p * len(p_values)) + 1e-12


def test_draws_spread_as_the_mean_does() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(1, 6, 50)) + rng.normal(size=(1, 6, 1)) * 0.5
    drawn = draws_of_means(values, resamples=40_000)[:, 0]
    of_seeds = values[0].mean(axis=1).var(ddof=1) / 6
    of_prompts = values[0].mean(axis=0).var(ddof=1) / 50
    # a t of 5 degrees of freedom has variance 5/3
    assert drawn.var() == pytest.approx(of_seeds * 5 / 3 + of_prompts, rel=0.05)
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.01)


def test_draws_keep_what_cells_have_in_common() -> None:
    rng = np.random.default_rng(4)
    one = rng.normal(size=(3, 40))
    drawn = draws_of_means(np.stack([one, one + 0.1, one]), resamples=50)
    assert drawn[:, 0] == pytest.approx(drawn[:, 2])
    assert drawn[:, 1] - drawn[:, 0] == pytest.approx(0.1)
