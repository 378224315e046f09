"""Means over repetitions: intervals that hold for other seeds and for other prompts.

A method is trained S times (seeds: other training rows, another order) and each policy answers the
same P prompts. Seeds and prompts are crossed, and both are samples of what one wants to speak of.
With values y[s, p] and the two-way table's mean squares,

    Var(mean) ≈ var(seed means)/S + var(prompt means)/P − var(residuals)/(S·P)

and a t quantile with Satterthwaite's degrees of freedom (Satterthwaite 1946; Clark 1973 for crossed
subjects and items). Unlike a bootstrap it does not take three seeds for the whole truth.

Legend: S = seeds, P = prompts, K = cells of a curve, R = simulated draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from rayonale.evaluate.statistics import Floats, mean_interval, sign_flip_test


@dataclass(frozen=True)
class Mean:
    """A mean over seeds and prompts.

    Attributes:
        value: the mean.
        low, high: interval over seeds and prompts; over prompts alone with one seed.
        prompts_low, prompts_high: interval over prompts for just these seeds (bootstrap).
        by_seed: [S] mean of each seed.
        seeds, prompts: S and P.
        p_value: two-sided, that the mean is `null`.
        null: what the test is against.
        level: confidence level of the intervals.
    """

    value: float
    low: float
    high: float
    prompts_low: float
    prompts_high: float
    by_seed: tuple[float, ...]
    seeds: int
    prompts: int
    p_value: float
    null: float
    level: float = 0.95

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def mean_of(
    values: Floats,
    *,
    null: float = 0.5,
    bounds: tuple[float, float] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Mean:
    """Mean of a table with its intervals and test.

    Args:
        values: [S, P].
        null: hypothesis of the test.
        bounds: smallest and largest value possible; intervals are cut there.
        seed: of the bootstrap over prompts.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"values of shape {table.shape}: expected [S, P] with S, P ≥ 1")
    over_prompts = mean_interval(table.mean(axis=0), seed=seed, level=level, bounds=bounds)
    variance, freedom = variance_of_mean(table)
    value = float(table.mean())
    if len(table) == 1 or variance == 0:
        low, high = over_prompts.low, over_prompts.high
        p_value = sign_flip_test(table.mean(axis=0) - null, seed=seed)
    else:
        error = math.sqrt(variance)
        half = float(stats.t.ppf(0.5 + level / 2, freedom)) * error
        low, high = value - half, value + half
        p_value = float(2 * stats.t.sf(abs(value - null) / error, freedom))
    if bounds is not None:
        low, high = max(bounds[0], low), min(bounds[1], high)
    return Mean(
        value, low, high, over_prompts.low, over_prompts.high,
        tuple(float(v) for v in table.mean(axis=1)), len(table), table.shape[1], p_value, null,
        level,
    )  # fmt: skip


def variance_of_mean(table: Floats) -> tuple[float, float]:
    """Variance of a table's mean under random seeds and prompts, and its degrees of freedom.

    Where the residuals' part would make it smaller than that of seeds or of prompts alone, the
    larger of these is taken.

    Args:
        table: [S, P]. With S = 1 or P = 1 only the other way counts.
    """
    parts = [_of_means(table.mean(axis=1)), _of_means(table.mean(axis=0))]
    known = [part for part in parts if part[1] > 0]
    if not known:
        return 0.0, 1.0
    largest = max(known)
    if len(known) == 1:
        return largest
    rest = (
        table - table.mean(axis=0, keepdims=True) - table.mean(axis=1, keepdims=True) + table.mean()
    )
    freedom = float((table.shape[0] - 1) * (table.shape[1] - 1))
    residual = float((rest**2).sum()) / freedom / table.size
    total = parts[0][0] + parts[1][0] - residual
    if total <= largest[0]:
        return largest
    squares = sum(v * v / f for v, f in [*parts, (residual, freedom)])
    return total, total * total / squares


def _of_means(means: Floats) -> tuple[float, float]:
    """Variance of the mean of independent means, and its degrees of freedom."""
    if means.size < 2:
        return 0.0, 0.0
    return float(means.var(ddof=1)) / means.size, float(means.size - 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for several comparisons (Holm 1979): valid whatever their dependence."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, at in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = largest
    return adjusted


def draws_of_means(cells: Floats, *, resamples: int = 4_000, seed: int = 0) -> Floats:
    """[R, K] simulated means of several cells that share their seeds and prompts.

    Each draw adds to the means a random combination of the seeds' and of the prompts' deviations,
    scaled so that its covariance over the cells is the estimated one: what cells have in common
    (a hard prompt, a lucky set of rows) moves them together. The seeds' part has t-like tails with
    S − 1 degrees of freedom.

    Args:
        cells: [K, S, P].
    """
    _, seeds, prompts = cells.shape
    rng = np.random.default_rng(seed)
    found = np.tile(cells.mean(axis=(1, 2)), (resamples, 1))
    if seeds > 1:
        deviations = cells.mean(axis=2) - cells.mean(axis=(1, 2))[:, None]  # [K, S]
        spread = np.sqrt((seeds - 1) / rng.chisquare(seeds - 1, size=(resamples, 1)))
        normal = rng.standard_normal((resamples, seeds)) * spread
        found += normal @ deviations.T / math.sqrt(seeds * (seeds - 1))
    if prompts > 1:
        deviations = cells.mean(axis=1) - cells.mean(axis=(1, 2))[:, None]  # [K, P]
        normal = rng.standard_normal((resamples, prompts))
        found += normal @ deviations.T / math.sqrt(prompts * (prompts - 1))
    return found
