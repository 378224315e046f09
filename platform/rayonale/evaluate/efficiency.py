"""Data-efficiency: how many training pairs a method needs for a given win rate.

    win rate  ┤        ●──── dpo          the curve is made to rise (isotonic regression), read
    target ───┤···●╱╱                     off between measured sizes on a logarithmic scale
              ┤  ╱
              └──┴──┴────┴──── pairs

A size below the smallest or above the largest one measured is known only as such: it is kept as
bounds, (0, smallest] or [largest, ∞), and intervals are as wide as that makes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sklearn.isotonic import isotonic_regression

from rayonale.evaluate.statistics import Floats


@dataclass(frozen=True)
class Bounds:
    """Where a number lies: low = high where it is known; 0 and ∞ where nothing is."""

    low: float
    high: float

    def over(self, other: Bounds) -> Bounds:
        """Bounds of the quotient."""
        low = self.low / other.high if other.high not in (0.0, math.inf) else 0.0
        high = self.high / other.low if other.low else math.inf
        return Bounds(low, high)


@dataclass(frozen=True)
class Needed:
    """Pairs needed (or a quotient of such numbers).

    Attributes:
        value_low, value_high: the value itself; they differ where it lies outside what was
            measured.
        low, high: the interval; None stands for ∞.
        level: confidence level of the interval.
    """

    value_low: float
    value_high: float | None
    low: float
    high: float | None
    level: float

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def size_for(target: float, sizes: Sequence[float], win_rates: Sequence[float] | Floats) -> Bounds:
    """Pairs at which a curve reaches a win rate.

    Args:
        sizes: [K] ascending.
        win_rates: [K]; made monotone by isotonic regression with equal weights.
    """
    rising = isotonic_regression(np.asarray(win_rates, dtype=np.float64))
    if rising[0] >= target:
        return Bounds(0.0, sizes[0])
    if rising[-1] < target:
        return Bounds(sizes[-1], math.inf)
    above = int(np.argmax(rising >= target))
    share = (target - rising[above - 1]) / (rising[above] - rising[above - 1])
    logs = math.log(sizes[above - 1]), math.log(sizes[above])
    found = math.exp(logs[0] + share * (logs[1] - logs[0]))
    return Bounds(found, found)


def needed(
    target: float, sizes: Sequence[float], means: Floats, draws: Floats, *, level: float = 0.95
) -> Needed:
    """Pairs that a method needs for a win rate.

    Args:
        means: [K] win rates by size; draws: [R, K] simulated ones (`two_way.draws_of_means`).
    """
    simulated = [size_for(target, sizes, row) for row in draws]
    return _interval(size_for(target, sizes, means), simulated, level)


def times_fewer(
    target: float,
    sizes: tuple[Sequence[float], Sequence[float]],
    means: tuple[Floats, Floats],
    draws: tuple[Floats, Floats],
    *,
    level: float = 0.95,
) -> Needed:
    """How many times as many pairs the first method needs as the second.

    Args:
        sizes, means, draws: of the two; their draws belong together row by row.
    """
    first, second = (
        [size_for(target, own, row) for row in drawn]
        for own, drawn in zip(sizes, draws, strict=True)
    )
    value = size_for(target, sizes[0], means[0]).over(size_for(target, sizes[1], means[1]))
    return _interval(value, [a.over(b) for a, b in zip(first, second, strict=True)], level)


def _interval(value: Bounds, simulated: Sequence[Bounds], level: float) -> Needed:
    """Quantiles of the draws' lower and upper bounds."""
    last, tail = len(simulated) - 1, (1 - level) / 2
    low = sorted(b.low for b in simulated)[math.floor(last * tail + 1e-9)]
    high = sorted(b.high for b in simulated)[math.ceil(last * (1 - tail) - 1e-9)]
    return Needed(value.low, _finite(value.high), low, _finite(high), level)


def _finite(value: float) -> float | None:
    return None if math.isinf(value) else value
