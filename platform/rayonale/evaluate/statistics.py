"""Statistics of comparisons: bootstrap intervals and paired tests over prompts.

The unit is the prompt: repeats, samples and rows of one prompt are averaged first, since they
are not independent. All randomness is seeded, so that the same rows give the same interval.

Legend: P = prompts, N = rows (several a prompt), R = bootstrap resamples.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

# Resamples drawn at a time: bounds memory at about 16 MB for 1,000 distinct values.
_CHUNK = 2_000


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts with its confidence interval.

    Attributes:
        value: the mean.
        low, high: bounds of the interval.
        prompts: P, the number of prompts that it rests on.
        level: confidence level of the interval.
    """

    value: float
    low: float
    high: float
    prompts: int
    level: float = 0.95

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def outcome(score_a: float, score_b: float) -> float:
    """1.0 when a is better, 0.0 when b is, 0.5 for a tie.

    Raises:
        ValueError: a score is not finite (it must have been rejected before).
    """
    if not (math.isfinite(score_a) and math.isfinite(score_b)):
        raise ValueError(f"scores {score_a} and {score_b}: expected finite numbers")
    return 0.5 if score_a == score_b else float(score_a > score_b)


def by_prompt(values: Sequence[float], prompts: Sequence[Hashable]) -> dict[Hashable, float]:
    """Mean of the values of each prompt, in order of first appearance.

    Args:
        values: [N].
        prompts: [N] key of each value's prompt.
    """
    if len(values) != len(prompts):
        raise ValueError(f"{len(values)} values for {len(prompts)} prompt keys")
    gathered: dict[Hashable, list[float]] = {}
    for key, value in zip(prompts, values, strict=True):
        gathered.setdefault(key, []).append(value)
    return {key: math.fsum(found) / len(found) for key, found in gathered.items()}


def mean_interval(
    values: Sequence[float] | Floats,
    *,
    seed: int = 0,
    resamples: int = 10_000,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    """Mean with a percentile bootstrap interval (Efron & Tibshirani 1993, ch. 13).

    Resampling P values with replacement is the same as drawing counts of the distinct values
    from a multinomial, which is how it is done: a win rate has a handful of distinct values,
    whatever P.

    A bootstrap of equal values has no width, which would claim certainty from, say, five wins
    of five. With `bounds` (a win rate's are 0 and 1) such a sample gets the Wilson score
    interval of its position between the bounds; without bounds it stays a point.

    Args:
        values: [P], one value a prompt.
        bounds: smallest and largest value possible.

    Raises:
        ValueError: no values, a value that is not finite, or a level outside (0, 1).
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"values of shape {array.shape}: expected [P] with P ≥ 1")
    if not np.isfinite(array).all():
        raise ValueError(f"{int((~np.isfinite(array)).sum())} of {array.size} values not finite")
    if not 0 < level < 1:
        raise ValueError(f"level {level}: expected a number between 0 and 1")
    distinct, counts = np.unique(array, return_counts=True)
    mean = float(array.mean())
    if distinct.size == 1:
        low, high = _wilson(mean, array.size, level, bounds)
    else:
        means = _resampled_means(distinct, counts, seed, resamples)
        tail = (1 - level) / 2
        low, high = (float(q) for q in np.quantile(means, [tail, 1 - tail]))
    return Estimate(mean, low, high, int(array.size), level)


def _resampled_means(distinct: Floats, counts: Any, seed: int, resamples: int) -> Floats:
    """[R] means of bootstrap resamples."""
    rng = np.random.default_rng(seed)
    total = int(counts.sum())
    # Centred, so that counts that sum to `total` cost no precision for far-off values.
    centre = float(distinct.mean())
    drawn = []
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        drawn.append(rng.multinomial(total, counts / total, size=size) @ (distinct - centre))
    means: Floats = np.concatenate(drawn) / total + centre
    return means


def _wilson(
    value: float, size: int, level: float, bounds: tuple[float, float] | None
) -> tuple[float, float]:
    if bounds is None:
        return value, value
    smallest, largest = bounds
    share = (value - smallest) / (largest - smallest)
    z = float(stats.norm.ppf(0.5 + level / 2))
    middle = (share + z * z / (2 * size)) / (1 + z * z / size)
    half = z * math.sqrt(share * (1 - share) / size + (z / (2 * size)) ** 2) / (1 + z * z / size)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return smallest + low * (largest - smallest), smallest + high * (largest - smallest)


def win_rate(
    outcomes: Sequence[float], prompts: Sequence[Hashable], *, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Share of prompts that a wins, a tie counting half, with a bootstrap interval.

    Args:
        outcomes: [N] 1.0 (a wins), 0.5 (tie), 0.0 (b wins); repeats of a prompt are averaged.
        prompts: [N] key of each outcome's prompt.

    Raises:
        ValueError: an outcome outside [0, 1], or none at all.
    """
    wrong = [value for value in outcomes if not 0.0 <= value <= 1.0]
    if wrong:
        raise ValueError(f"outcomes {wrong[:3]}: expected numbers from 0 to 1")
    means = list(by_prompt(outcomes, prompts).values())
    return mean_interval(means, seed=seed, level=level, bounds=(0.0, 1.0))


def sign_flip_test(differences: Sequence[float], *, seed: int = 0, resamples: int = 9_999) -> float:
    """Two-sided p-value of a paired permutation test that the mean difference is 0.

    Under the null a and b can be exchanged within each prompt, which flips the sign of its
    difference. Exact when 2^P is at most `resamples` + 1, else Monte Carlo with the observed
    case counted, so that p is never 0 (Phipson & Smyth 2010).

    Args:
        differences: [P] a − b per prompt (for outcomes: outcome − 0.5).
    """
    array = np.asarray(differences, dtype=np.float64)
    moving = array[array != 0]  # zeros do not change under a flip
    if moving.size == 0:
        return 1.0
    # One statistic for the draws and the data: float noise must not break exact ties.
    scale = np.abs(moving).max() * 1e-9
    observed = abs(moving.sum()) - scale
    if 2**moving.size <= resamples + 1:
        bits = np.arange(2**moving.size)[:, None] >> np.arange(moving.size) & 1
        return float(np.mean(np.abs((1 - 2 * bits) @ moving) >= observed))
    rng = np.random.default_rng(seed)
    extreme = 0
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        signs = rng.integers(0, 2, size=(size, moving.size), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs @ moving) >= observed).sum())
    return (extreme + 1) / (resamples + 1)


def cohen_kappa(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Cohen's κ (1960) of two raters' labels; None where chance agreement is already 1.

    Args:
        first, second: [N] labels of the same N items.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} and {len(second)} labels: expected the same N ≥ 1")
    size = len(first)
    agreed = sum(a == b for a, b in zip(first, second, strict=True)) / size
    labels = set(first) | set(second)
    chance = sum(
        (sum(a == label for a in first) / size) * (sum(b == label for b in second) / size)
        for label in labels
    )
    return None if chance >= 1 else (agreed - chance) / (1 - chance)
