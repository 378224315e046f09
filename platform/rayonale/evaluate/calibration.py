"""How good a reward model is on pairs: accuracy in groups, and is it as sure as it is right.

A pair's *gap* is the reward of the better response minus that of the other; the model is right
where it is above 0 (a gap of 0 counts half). The probability that it gives to its own choice is
σ(|gap|), by Bradley-Terry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from rayonale.evaluate.statistics import Estimate, mean_interval

BINS = 10


def right(gap: float) -> float:
    """1 where the better response has the higher reward, ½ for equal ones, else 0."""
    return 0.5 if gap == 0 else float(gap > 0)


def accuracy(gaps: Sequence[float], *, level: float = 0.95, seed: int = 0) -> Estimate:
    """Share of pairs that are ordered rightly, with a bootstrap interval.

    Raises:
        ValueError: no pair.
    """
    return mean_interval([right(gap) for gap in gaps], level=level, seed=seed, bounds=(0.0, 1.0))


def reliability(gaps: Sequence[float], bins: int = BINS) -> list[dict[str, Any]]:
    """How often the model is right where it gives its choice a probability, by probability.

    Returns:
        For each of `bins` equal parts of [½, 1] that has pairs: `low`, `high`, `pairs`,
        `probability` (mean of σ(|gap|)), `accuracy`.
    """
    values = np.asarray(gaps, dtype=np.float64)
    sure = 1 / (1 + np.exp(-np.abs(values)))
    good = np.where(values > 0, 1.0, np.where(values == 0, 0.5, 0.0))
    place = np.minimum(((sure - 0.5) * 2 * bins).astype(int), bins - 1)
    return [
        {
            "low": 0.5 + number / (2 * bins),
            "high": 0.5 + (number + 1) / (2 * bins),
            "pairs": int((place == number).sum()),
            "probability": float(sure[place == number].mean()),
            "accuracy": float(good[place == number].mean()),
        }
        for number in range(bins)
        if (place == number).any()
    ]


def calibration_error(gaps: Sequence[float], bins: int = BINS) -> float:
    """Expected calibration error: mean distance of probability and accuracy, weighted by pairs.

    Guo et al. 2017 (arXiv 1706.04599), with equal bins of [½, 1].
    """
    found = reliability(gaps, bins)
    total = sum(each["pairs"] for each in found)
    return (
        sum(each["pairs"] * abs(each["probability"] - each["accuracy"]) for each in found) / total
    )


def grouped(
    gaps: Sequence[float],
    keys: Sequence[Hashable | None],
    *,
    level: float = 0.95,
    seed: int = 0,
    order: Callable[[Any], Any] = str,
) -> list[dict[str, Any]]:
    """Accuracy in each group, in order; pairs with the key None are in none."""
    groups: dict[Any, list[float]] = {}
    for gap, key in zip(gaps, keys, strict=True):
        if key is not None:
            groups.setdefault(key, []).append(gap)
    return [
        {"group": str(key), **accuracy(groups[key], level=level, seed=seed).as_dict()}
        for key in sorted(groups, key=order)
    ]


def between(value: float | None, edges: Sequence[float]) -> str | None:
    """The interval of a value, as text: `< 1`, `1 … 2`, `≥ 2`; None without a value."""
    if value is None or not math.isfinite(value):
        return None
    above = [edge for edge in edges if value >= edge]
    below = [edge for edge in edges if value < edge]
    if not above:
        return f"< {below[0]:g}"
    return f"{above[-1]:g} … {below[0]:g}" if below else f"≥ {above[-1]:g}"


def place_among(edges: Sequence[float]) -> Callable[[str], float]:
    """Sorting key for what `between` returns."""
    names = [between(edge - 1e-9, edges) for edge in edges] + [between(edges[-1], edges)]
    return lambda name: float(names.index(name))
