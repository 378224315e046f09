"""What claims are measured by: functions from a study to one number with its interval.

Each builder takes the roles that it is about and returns a function of the study; that returns
None where the number cannot be had (no shared size, no comparison, a single seed).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from rayonale.evaluate.efficiency import Needed
from rayonale.evaluate.margins import slope_at_zero
from rayonale.evaluate.study_tables import Study
from rayonale.evaluate.two_way import Mean

Verdict = Literal["holds", "does not hold", "undecided", "not tested"]
Unit = Literal["share", "points", "times", "characters", "nats"]
Measure = Callable[[Study], "Measured | None"]


@dataclass(frozen=True)
class Measured:
    """A number with its interval; None stands for ∞.

    Attributes:
        what: what was measured, in words.
        threshold: what the claim says that it lies above (or below).
        above: which side is claimed.
        low, high: None where nothing bounds it.
    """

    what: str
    value: float | None
    low: float
    high: float | None
    threshold: float
    above: bool = True
    unit: Unit = "share"

    def verdict(self) -> Verdict:
        """Whether the interval lies on the claimed side."""
        over = self.low > self.threshold
        under = self.high is not None and self.high < self.threshold
        if over or under:
            return "holds" if over == self.above else "does not hold"
        return "undecided"


def _told(study: Study, mean: Mean, what: str, size: int) -> str:
    seeds = f"{mean.seeds} seed{'s' if mean.seeds > 1 else ''}"
    return f"{what} ({size:,} pairs, {seeds}, {mean.prompts:,} prompts)"


def _shared_size(study: Study, *roles: str) -> int | None:
    sizes = [set(study.cells.sizes(study.role(role) or "")) for role in roles]
    return max(set.intersection(*sizes), default=None)


def against_baseline(role: str) -> Measure:
    """Win rate against the baseline at the method's largest size, above one half."""

    def measure(study: Study) -> Measured | None:
        method = study.role(role) or role
        size = study.cells.sizes(method)[-1]
        mean = study.mean(study.cells.against_baseline((method, size)))
        if mean is None:
            return None
        what = _told(study, mean, f"win rate of {method} against {study.cells.baseline}", size)
        return Measured(what, mean.value, mean.low, mean.high, 0.5)

    return measure


def head_to_head(a: str, b: str, above: bool = True) -> Measure:
    """Win rate of a against b, trained on the same pairs, at the largest shared size."""

    def measure(study: Study) -> Measured | None:
        size, one, other = _shared_size(study, a, b), study.role(a) or a, study.role(b) or b
        if size is None:
            return None
        mean = study.mean(study.cells.against((one, size), (other, size)))
        if mean is None:
            return None
        what = _told(study, mean, f"win rate of {one} against {other}", size)
        return Measured(what, mean.value, mean.low, mean.high, 0.5, above)

    return measure


def higher_win_rate(a: str, b: str) -> Measure:
    """Win rate of a against the baseline less that of b, paired."""

    def measure(study: Study) -> Measured | None:
        size, one, other = _shared_size(study, a, b), study.role(a) or a, study.role(b) or b
        if size is None:
            return None
        table = study.cells.differences((one, size), (other, size))
        mean = study.mean(table, null=0.0, bounds=(-1.0, 1.0))
        if mean is None:
            return None
        base = study.cells.baseline
        what = _told(study, mean, f"win rate against {base}, {one} less {other}", size)
        return Measured(what, mean.value, mean.low, mean.high, 0.0, unit="points")

    return measure


def grows(role: str) -> Measure:
    """Win rate against the baseline at the largest size less that at the smallest."""

    def measure(study: Study) -> Measured | None:
        method = study.role(role) or role
        sizes = study.cells.sizes(method)
        table = study.cells.differences((method, sizes[-1]), (method, sizes[0]))
        mean = study.mean(table, null=0.0, bounds=(-1.0, 1.0))
        if len(sizes) < 2 or mean is None:
            return None
        what = (
            f"win rate of {method} against {study.cells.baseline}, {sizes[-1]:,} pairs less "
            f"{sizes[0]:,}"
        )
        return Measured(what, mean.value, mean.low, mean.high, 0.0, unit="points")

    return measure


def few_against_all(few: str, many: str) -> Measure:
    """Win rate of one method with its fewest pairs against another with its most."""

    def measure(study: Study) -> Measured | None:
        one, other = study.role(few) or few, study.role(many) or many
        size, top = study.cells.sizes(one)[0], study.cells.sizes(other)[-1]
        mean = study.mean(study.cells.against((one, size), (other, top)))
        if mean is None or size == top:
            return None
        what = f"win rate of {one} with {size:,} pairs against {other} with {top:,}"
        return Measured(what, mean.value, mean.low, mean.high, 0.5)

    return measure


def needs_fewer(many: str, few: str, times: float) -> Measure:
    """How many times as many pairs one method needs as another, above a threshold."""

    def measure(study: Study) -> Measured | None:
        one, other = study.role(many) or many, study.role(few) or few
        found, target = study.times_fewer(one, other), study.reached()
        if found is None or target is None:
            return None
        what = f"pairs of {one} over pairs of {other}, for a win rate of {100 * target:.1f} %"
        return Measured(what, _middle(found), found.low, found.high, times, unit="times")

    return measure


def _middle(found: Needed) -> float | None:
    """The value where it is known exactly."""
    return found.value_low if found.value_low == found.value_high else None


def shorter(a: str, b: str) -> Measure:
    """Mean length of a's answers less that of b's, below zero."""

    def measure(study: Study) -> Measured | None:
        size, one, other = _shared_size(study, a, b), study.role(a) or a, study.role(b) or b
        if size is None:
            return None
        tables = [study.cells.lengths((method, size)) for method in (one, other)]
        if tables[0] is None or tables[1] is None:
            return None
        if (tables[0].seeds, tables[0].prompts) != (tables[1].seeds, tables[1].prompts):
            return None
        apart = replace(tables[0], values=tables[0].values - tables[1].values)
        mean = study.mean(apart, null=0.0, bounds=None)
        assert mean is not None
        what = _told(
            study, mean,
            f"mean length of answers, {one} ({tables[0].values.mean():.1f}) less {other} "
            f"({tables[1].values.mean():.1f})", size,
        )  # fmt: skip
        return Measured(what, mean.value, mean.low, mean.high, 0.0, False, "characters")

    return measure


def over_seeds(
    a: str, b: str, what: str, value: Callable[[Study, str], float | None], ratio: bool = False
) -> Measure:
    """A number of each policy, a less b (or a over b), seed by seed: a t interval over seeds.

    Args:
        value: the number of a policy; None where it has none.
    """

    def measure(study: Study) -> Measured | None:
        size, one, other = _shared_size(study, a, b), study.role(a) or a, study.role(b) or b
        if size is None:
            return None
        mine, theirs = (study.cells.policies((method, size)) for method in (one, other))
        found = [(value(study, mine[s]), value(study, theirs[s])) for s in mine if s in theirs]
        known = [(x, y) for x, y in found if x is not None and y is not None]
        if len(known) < 2:
            return None
        apart = [math.log(x / y) if ratio else x - y for x, y in known]
        mean, half = t_interval(apart, study.level)
        numbers = mean, mean - half, mean + half
        if ratio:
            numbers = math.exp(numbers[0]), math.exp(numbers[1]), math.exp(numbers[2])
        sign = "over" if ratio else "less"
        told = f"{what}, {one} {sign} {other} ({size:,} pairs, {len(known)} seeds)"
        return Measured(told, *numbers, 1.0 if ratio else 0.0, unit="times" if ratio else "nats")

    return measure


def t_interval(values: Sequence[float], level: float) -> tuple[float, float]:
    """Mean and half width of the t interval of two or more values."""
    array = np.asarray(values, dtype=np.float64)
    error = float(array.std(ddof=1)) / math.sqrt(array.size)
    return float(array.mean()), float(stats.t.ppf(0.5 + level / 2, array.size - 1)) * error


def margin_tail(study: Study, policy: str) -> float | None:
    """Distance of a policy's 5 % and 95 % quantiles of margins, nats."""
    entry = study.margins.get(policy)
    return entry["quantile_95"] - entry["quantile_05"] if entry else None


def margin_slope(study: Study, policy: str) -> float | None:
    """How steeply a policy's sorted margins cross zero, nats for 1 % of the pairs."""
    entry = study.margins.get(policy)
    return slope_at_zero(entry["sorted"]) if entry else None


def train_seconds(study: Study, policy: str) -> float | None:
    """Time that a policy's training steps took."""
    run = study.runs.get(policy)
    return float(run["seconds"]) if run else None
