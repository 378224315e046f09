"""Ratings: worked by hand, at the extremes, and what intervals may say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from rayonale.evaluate.bradley_terry import (
    SCALE,
    Battle,
    agreement,
    rank_correlation,
    ratings,
    separability,
    strengths,
)


def test_two_models_are_rated_by_their_odds() -> None:
    theta = strengths(np.array([[0.0, 1.0], [3.0, 0.0]]))
    assert theta == pytest.approx([0, math.log(3)], abs=1e-5)


def test_a_chain_adds_up() -> None:
    wins = np.array([[0, 1, 0], [3, 0, 1], [0, 3, 0]], dtype=float)
    assert strengths(wins) == pytest.approx([0, math.log(3), math.log(9)], abs=1e-5)
    assert strengths(wins, 2) == pytest.approx([-math.log(9), -math.log(3), 0], abs=1e-5)


def test_a_model_that_never_lost_is_rated_finitely() -> None:
    theta = strengths(np.array([[0.0, 0.0], [500.0, 0.0]]))
    assert 12 < theta[1] < 30
    wins = np.array([[0, 0, 9], [500, 0, 0], [9, 0, 0]], dtype=float)
    assert strengths(wins)[2] == pytest.approx(0, abs=1e-4)  # the others are not moved by it


@given(st.lists(st.integers(1, 50), min_size=6, max_size=6))
def test_the_fit_is_where_expected_wins_are_the_wins(counts: list[int]) -> None:
    wins = np.zeros((3, 3))
    wins[[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]] = counts
    theta = strengths(wins)
    told = 1 / (1 + np.exp(theta[None, :] - theta[:, None]))
    np.testing.assert_allclose(((wins + wins.T) * told).sum(1), wins.sum(1), rtol=1e-4)


def test_the_fit_is_that_of_logistic_regression() -> None:
    """Independent: scikit-learn's unpenalised logistic regression on +1/−1 for the two models."""
    rng = np.random.default_rng(5)
    size = 4
    pairs = rng.integers(0, size, (600, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    truth = np.array([0.0, 0.8, -0.5, 1.5])
    won = rng.random(len(pairs)) < 1 / (1 + np.exp(truth[pairs[:, 1]] - truth[pairs[:, 0]]))
    weight = rng.choice([1.0, 3.0], len(pairs))
    design = np.zeros((len(pairs), size))
    design[np.arange(len(pairs)), pairs[:, 0]] = 1
    design[np.arange(len(pairs)), pairs[:, 1]] = -1
    fit = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-12, max_iter=10_000)
    fit.fit(design[:, 1:], won, sample_weight=weight)  # model 0 is the anchor
    wins = np.zeros((size, size))
    np.add.at(wins, (pairs[:, 0], pairs[:, 1]), weight * won)
    np.add.at(wins, (pairs[:, 1], pairs[:, 0]), weight * ~won)
    assert strengths(wins)[1:] == pytest.approx(fit.coef_[0], abs=1e-4)


def test_models_that_never_met_are_not_compared() -> None:
    wins = np.zeros((4, 4))
    wins[0, 1] = wins[2, 3] = 5
    with pytest.raises(ValueError, match=r"models \[2, 3\] have no battles"):
        strengths(wins)


def battles(model: str, wins: int, losses: int, ties: int = 0) -> list[Battle]:
    told = [1.0] * wins + [0.0] * losses + [0.5] * ties
    return [Battle(n, model, "base", outcome) for n, outcome in enumerate(told)]


def test_a_rating_is_a_win_rate_on_another_scale() -> None:
    base, good = ratings(battles("good", 10, 60, 30), "base", rounds=200)
    assert (base.model, base.rating, base.win_rate) == ("base", 1000, 50)
    assert (base.low, base.win_high) == (1000, 50)
    assert good.win_rate == pytest.approx(25, abs=1e-4)
    assert good.rating == pytest.approx(1000 - SCALE * math.log(3), abs=1e-3)
    assert good.win_low < 25 < good.win_high and good.battles == 100
    # about 1.96 standard errors of a mean of 100 outcomes, whose deviation is √(0.1875 − 0.0125·…)
    error = 100 * np.std([1.0] * 10 + [0.0] * 60 + [0.5] * 30) / 10
    assert good.win_high - good.win_low == pytest.approx(2 * 1.96 * error, rel=0.25)


def test_a_strong_verdict_counts_for_several() -> None:
    found = ratings([Battle(0, "m", "base", 1.0, 3.0), Battle(1, "m", "base", 0.0)], "base",
                    rounds=0)  # fmt: skip
    assert found[0].win_rate == pytest.approx(75, abs=1e-3)


def test_what_stands_and_falls_together_is_drawn_together() -> None:
    """Two orders of a question that always agree hold no more than one of them."""
    twice = [Battle(n // 2, "m", "base", float((n // 2) % 2)) for n in range(200)]
    width = {}
    for how in ("unit", "battle"):
        (found,) = (one for one in ratings(twice, "base", rounds=400, resample=how)
                    if one.model == "m")  # fmt: skip
        width[how] = found.high - found.low
    assert width["unit"] > 1.2 * width["battle"]


def test_the_same_seed_gives_the_same_intervals() -> None:
    one, two = (ratings(battles("m", 30, 20), "base", seed=3) for _ in range(2))
    assert one == two
    assert one != ratings(battles("m", 30, 20), "base", seed=4)


def test_wrong_requests_are_told() -> None:
    with pytest.raises(ValueError, match="anchor 'gpt' has no battles; models: base, m"):
        ratings(battles("m", 1, 1), "gpt")
    with pytest.raises(ValueError, match="anchor 'base' has no battles; models: none"):
        ratings([], "base")
    with pytest.raises(ValueError, match="expected unit or battle"):
        ratings(battles("m", 1, 1), "base", resample="row")


def test_separability_and_agreement() -> None:
    mine = {"a": (0.0, 1.0), "b": (2.0, 3.0), "c": (2.5, 4.0)}  # a apart from both, b and c not
    assert separability(mine) == pytest.approx(2 / 3)
    assert agreement(mine, mine) == pytest.approx(2 / 3)
    clear = {"a": (0.0, 0.1), "b": (1.0, 1.1), "c": (2.0, 2.1)}
    assert agreement(clear, clear) == 1
    turned = {name: (-high, -low) for name, (low, high) in clear.items()}
    assert agreement(clear, turned) == -1
    assert agreement(mine, {"a": (9.0, 9.5), "b": (2.0, 3.0)}) == -1  # over common models
    assert agreement(clear, mine) == agreement(mine, clear)
    with pytest.raises(ValueError, match="expected two or more"):
        separability({"a": (0, 1)})
    with pytest.raises(ValueError, match=r"1 model\(s\) in common"):
        agreement(clear, {"a": (0, 1), "z": (0, 1)})
    assert rank_correlation({"a": 1, "b": 2, "c": 3}, {"c": 9, "b": 5, "a": 0}) == 1
