"""Ratings from battles: the Bradley-Terry model, bootstrap intervals, and what they can tell apart.

    P(i beats j) = σ(θ_i − θ_j)        rating = 1000 + 400 θ / ln 10, the anchor's is 1000

Legend: M = models, B = battles, R = bootstrap rounds.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

Floats = NDArray[np.float64]

SCALE = 400 / math.log(10)
ANCHOR = 1000.0
# Holds the strength of a model that never lost (or never won) at a finite value, about ± 18 (a win
# rate of 99.999999 %); others move by less than 1e-8.
_RIDGE = 1e-6
_STEPS = 200


@dataclass(frozen=True)
class Battle:
    """One comparison of two models.

    Attributes:
        unit: what is drawn as a whole when battles are resampled (the question).
        first, second: the models.
        outcome: 1 when the first wins, 0 when the second does, ½ for a tie.
        weight: how many plain battles it counts for.
    """

    unit: Hashable
    first: str
    second: str
    outcome: float
    weight: float = 1.0


@dataclass(frozen=True)
class Rating:
    """A model's standing.

    Attributes:
        rating, low, high: on the scale where the anchor has 1000.
        win_rate, win_low, win_high: against the anchor, in percent.
        battles: in which it took part.
    """

    model: str
    rating: float
    low: float
    high: float
    win_rate: float
    win_low: float
    win_high: float
    battles: int


def strengths(wins: Floats, anchor: int = 0) -> Floats:
    """[M] maximum-likelihood strengths θ in nats, the anchor's being 0 (Newton's method).

    Args:
        wins: [M, M] weight of i's wins over j; a tie is half a win of each.

    Raises:
        ValueError: models that no chain of battles connects to the anchor: nothing says how
            they compare.
    """
    size = wins.shape[0]
    games = wins + wins.T
    lonely = sorted(set(range(size)) - _reached(games, anchor))
    if lonely:
        raise ValueError(f"models {lonely} have no battles that connect them to model {anchor}")
    theta = np.zeros(size)
    free = np.arange(size) != anchor
    for _ in range(_STEPS):
        told = expit(theta[:, None] - theta[None, :])
        gradient = (wins - games * told).sum(1) - _RIDGE * theta
        curvature = games * told * (1 - told)
        hessian = np.diag(curvature.sum(1) + _RIDGE) - curvature
        step = np.linalg.solve(hessian[np.ix_(free, free)], gradient[free])
        step = np.clip(step, -1, 1)  # a lopsided start must not overshoot
        theta[free] += step
        if np.abs(step).max(initial=0) < 1e-10:
            break
    return theta


def _reached(games: Floats, start: int) -> set[int]:
    seen, todo = {start}, [start]
    while todo:
        for other in np.flatnonzero(games[todo.pop()]):
            if int(other) not in seen:
                seen.add(int(other))
                todo.append(int(other))
    return seen


def ratings(
    battles: Sequence[Battle],
    anchor: str,
    *,
    rounds: int = 100,
    level: float = 0.95,
    seed: int = 0,
    resample: str = "unit",
) -> list[Rating]:
    """Ratings with percentile bootstrap intervals, best first.

    Args:
        rounds: R; Arena-Hard publishes 100.
        resample: `unit` draws whole units, since both orders of a question and all models'
            answers to it stand and fall together; `battle` draws single battles, as published.

    Raises:
        ValueError: no battles, or an anchor that took part in none.
    """
    names = sorted({name for battle in battles for name in (battle.first, battle.second)})
    if anchor not in names:
        raise ValueError(f"anchor {anchor!r} has no battles; models: {', '.join(names) or 'none'}")
    if resample not in ("unit", "battle"):
        raise ValueError(f"resample {resample!r}; expected unit or battle")
    at = {name: number for number, name in enumerate(names)}
    first, second, outcome, weight = (
        np.array([at[b.first] for b in battles]),
        np.array([at[b.second] for b in battles]),
        np.array([b.outcome for b in battles]),
        np.array([b.weight for b in battles]),
    )

    def wins(times: Floats) -> Floats:
        table = np.zeros((len(names), len(names)))
        np.add.at(table, (first, second), times * weight * outcome)
        np.add.at(table, (second, first), times * weight * (1 - outcome))
        return table

    theta = strengths(wins(np.ones(len(battles))), at[anchor])
    drawn = []
    for times in _draws(battles, rounds, seed, resample):
        try:
            drawn.append(strengths(wins(times), at[anchor]))
        except ValueError:  # a draw without a model's battles says nothing of it
            continue
    if rounds and not drawn:
        raise ValueError(f"none of {rounds} resamples connects all models: too few battles")
    counts = np.bincount(np.concatenate([first, second]), minlength=len(names))
    return _table(names, theta, np.array(drawn), counts.tolist(), level)


def _draws(battles: Sequence[Battle], rounds: int, seed: int, resample: str) -> list[Floats]:
    """[R] times that each battle is drawn."""
    rng = np.random.default_rng(seed)
    keys = [battle.unit if resample == "unit" else n for n, battle in enumerate(battles)]
    groups = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    member = np.array([groups[key] for key in keys])
    size = len(groups)
    share = np.full(size, 1 / size)
    return [rng.multinomial(size, share)[member].astype(np.float64) for _ in range(rounds)]


def _table(
    names: list[str], theta: Floats, drawn: Floats, counts: list[int], level: float
) -> list[Rating]:
    tail = (1 - level) / 2
    bounds = np.quantile(drawn, [tail, 1 - tail], axis=0) if drawn.size else np.array([theta] * 2)
    found = []
    for number, name in enumerate(names):
        three = (float(theta[number]), float(bounds[0, number]), float(bounds[1, number]))
        value, low, high = (ANCHOR + SCALE * strength for strength in three)
        rate, rate_low, rate_high = (100 * float(expit(strength)) for strength in three)
        found.append(Rating(name, value, low, high, rate, rate_low, rate_high, counts[number]))
    return sorted(found, key=lambda rating: -rating.rating)


Interval = tuple[float, float]


def separability(intervals: Mapping[str, Interval]) -> float:
    """Share of pairs of models whose intervals do not overlap (arXiv 2406.11939, section 3).

    Raises:
        ValueError: fewer than two models.
    """
    pairs = list(combinations(intervals.values(), 2))
    if not pairs:
        raise ValueError(f"{len(intervals)} model(s); expected two or more")
    return sum(_apart(one, other) != 0 for one, other in pairs) / len(pairs)


def agreement(intervals: Mapping[str, Interval], reference: Mapping[str, Interval]) -> float:
    """Agreement with confidence, −1 … 1 (arXiv 2406.11939, section 3).

    Over all pairs of models that both benchmarks rank: 1 where both tell the two apart in the same
    order, −1 where in opposite orders, 0 where either of them cannot tell them apart.
    """
    common = [name for name in intervals if name in reference]
    pairs = list(combinations(common, 2))
    if not pairs:
        raise ValueError(f"{len(common)} model(s) in common; expected two or more")
    told = (_apart(intervals[a], intervals[b]) * _apart(reference[a], reference[b])
            for a, b in pairs)  # fmt: skip
    return sum(told) / len(pairs)


def rank_correlation(scores: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """Spearman's correlation of two rankings, over the models in both."""
    common = [name for name in scores if name in reference]
    if len(common) < 2:
        raise ValueError(f"{len(common)} model(s) in common; expected two or more")
    found = stats.spearmanr([scores[n] for n in common], [reference[n] for n in common])
    return float(found.statistic)


def _apart(one: Interval, other: Interval) -> int:
    """1 when one lies above the other, −1 below, 0 when they overlap."""
    return int(one[0] > other[1]) - int(one[1] < other[0])
