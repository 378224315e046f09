"""Agreement of judges with labels and with each other, as the field measures it.

accuracy, within one, mean absolute error        shares and means over inputs
Cohen's κ, plain and quadratic; Fleiss' κ        agreement beyond chance
Pearson's r, Spearman's ρ, Kendall's τ-b         linearity and order of scores
tie-aware agreement, consistency under swap      comparisons

Measures that are cheap enough to be resampled a thousand times; where scipy or scikit-learn have
them too, tests hold them equal. A measure of inputs that leave it undefined (no
inputs, no spread) is None, never 0. Intervals are percentile bootstraps over inputs.

Legend: N = inputs, M = raters, R = resamples.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Measure = Callable[[Floats, Floats], float | None]


@dataclass(frozen=True)
class Agreement:
    """A measure with its interval; value is None where it is undefined.

    Attributes:
        low, high: of the interval; None where too few resamples define the measure.
        inputs: N.
    """

    value: float | None
    low: float | None
    high: float | None
    inputs: int
    level: float = 0.95

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def settled(told: Floats, comparisons: bool) -> Floats:
    """Means of verdicts as verdicts: the nearest score, or the nearer response (1.5: a tie)."""
    return 1.5 + 0.5 * np.sign(told - 1.5) if comparisons else np.rint(told)


def accuracy(told: Floats, label: Floats) -> float | None:
    """Share of inputs whose verdict is the label."""
    return float(np.mean(told == label)) if told.size else None


def within_one(told: Floats, label: Floats) -> float | None:
    """Share of inputs whose score is at most 1 off."""
    return float(np.mean(np.abs(told - label) <= 1)) if told.size else None


def mean_error(told: Floats, label: Floats) -> float | None:
    """Mean absolute error."""
    return float(np.mean(np.abs(told - label))) if told.size else None


def kappa(told: Floats, label: Floats) -> float | None:
    """Cohen's κ (1960) of labels as names."""
    if not told.size:
        return None
    names, places = np.unique(np.concatenate([told, label]), return_inverse=True)
    both = [np.bincount(part, minlength=names.size) / told.size for part in np.split(places, 2)]
    agreed, chance = float(np.mean(told == label)), float(both[0] @ both[1])
    return None if chance >= 1 else (agreed - chance) / (1 - chance)


def quadratic_kappa(told: Floats, label: Floats) -> float | None:
    """Cohen's κ with quadratic weights (1968): of scores on a scale, whole numbers or not.

    With weights (a − b)² the expected disagreement of independent raters has a closed form,
    var a + var b + (mean a − mean b)²; scikit-learn's table gives the same on whole numbers.
    """
    if not told.size:
        return None
    expected = told.var() + label.var() + (told.mean() - label.mean()) ** 2
    return None if expected == 0 else float(1 - np.mean((told - label) ** 2) / expected)


def pearson(told: Floats, label: Floats) -> float | None:
    """Pearson's r."""
    return _of_spread(lambda a, b: np.corrcoef(a, b)[0, 1], told, label)


def spearman(told: Floats, label: Floats) -> float | None:
    """Spearman's ρ, ties at their mean rank."""
    return pearson(stats.rankdata(told), stats.rankdata(label))


def kendall(told: Floats, label: Floats) -> float | None:
    """Kendall's τ-b, which allows for ties."""
    return _of_spread(lambda a, b: stats.kendalltau(a, b).statistic, told, label)


def tie_aware(told: Floats, label: Floats) -> float | None:
    """Agreement of comparisons 1, 1.5 (tie), 2: a tie against a choice counts half."""
    return float(np.mean(1 - np.abs(told - label))) if told.size else None


def swap_consistency(first: Floats, second: Floats) -> float | None:
    """Share of inputs on which both orders name the same response.

    Args:
        first, second: [N] verdicts in terms of the input, of the one order and of the other.
    """
    return accuracy(first, second)


def fleiss_kappa(labels: Sequence[Sequence[Any]]) -> float | None:
    """Fleiss' κ (1971) of M raters who all labelled the same N items.

    Args:
        labels: [N, M].

    Returns:
        None where chance agreement is already 1.

    Raises:
        ValueError: no items, fewer than two raters, or items with another number of them.
    """
    raters = {len(row) for row in labels}
    if len(raters) != 1 or min(raters) < 2:
        raise ValueError(f"{len(labels)} items with {sorted(raters)} labels: expected M ≥ 2 each")
    names = sorted({label for row in labels for label in row}, key=str)
    counts = np.array([[list(row).count(name) for name in names] for row in labels], float)
    m = raters.pop()
    agreed = float((((counts**2).sum(axis=1) - m) / (m * (m - 1))).mean())
    chance = float(((counts.sum(axis=0) / counts.sum()) ** 2).sum())
    return None if chance >= 1 else (agreed - chance) / (1 - chance)


MEASURES: Mapping[str, Measure] = {
    "accuracy": accuracy,
    "within_one": within_one,
    "mean_error": mean_error,
    "pearson": pearson,
    "spearman": spearman,
    "kendall": kendall,
    "kappa": kappa,
    "quadratic_kappa": quadratic_kappa,
    "tie_aware": tie_aware,
}


def interval(
    measure: Measure,
    told: Sequence[float] | Floats,
    label: Sequence[float] | Floats,
    *,
    seed: int = 0,
    resamples: int = 1_000,
    level: float = 0.95,
) -> Agreement:
    """A measure with its bootstrap interval.

    Args:
        told, label: [N].

    Raises:
        ValueError: lengths that differ.
    """
    a, b = _pair(told, label)
    value = measure(a, b)
    drawn = _resampled(lambda at: measure(a[at], b[at]), a.size, seed, resamples)
    if value is None or len(drawn) < resamples / 2:
        return Agreement(value, None, None, int(a.size), level)
    tail = (1 - level) / 2
    low, high = (float(q) for q in np.quantile(drawn, [tail, 1 - tail]))
    return Agreement(value, low, high, int(a.size), level)


def difference(
    measure: Measure,
    one: Sequence[float] | Floats,
    other: Sequence[float] | Floats,
    label: Sequence[float] | Floats,
    *,
    seed: int = 0,
    resamples: int = 1_000,
    level: float = 0.95,
) -> Agreement:
    """measure(one) − measure(other) on the same inputs, resampled together.

    Args:
        one, other: [N] verdicts of two judges; label: [N].
    """
    a, truth = _pair(one, label)
    b, _ = _pair(other, label)

    def apart(at: Any) -> float | None:
        both = measure(a[at], truth[at]), measure(b[at], truth[at])
        return None if both[0] is None or both[1] is None else both[0] - both[1]

    value = apart(np.arange(truth.size))
    drawn = _resampled(apart, truth.size, seed, resamples)
    if value is None or len(drawn) < resamples / 2:
        return Agreement(value, None, None, int(truth.size), level)
    tail = (1 - level) / 2
    low, high = (float(q) for q in np.quantile(drawn, [tail, 1 - tail]))
    return Agreement(value, low, high, int(truth.size), level)


def _resampled(
    measure: Callable[[Any], float | None], size: int, seed: int, resamples: int
) -> list[float]:
    if size == 0:
        return []
    rng = np.random.default_rng(seed)
    found = (measure(rng.integers(0, size, size)) for _ in range(resamples))
    return [value for value in found if value is not None]


def _pair(told: Any, label: Any) -> tuple[Floats, Floats]:
    a, b = np.asarray(told, np.float64), np.asarray(label, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"verdicts {a.shape} and labels {b.shape}: expected the same [N]")
    return a, b


def _of_spread(measure: Callable[[Any, Any], Any], a: Floats, b: Floats) -> float | None:
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _finite(measure(a, b))


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
