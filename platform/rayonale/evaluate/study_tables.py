"""What a study measures: win rates by size, paired tests, pairs needed, lengths, margins, time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rayonale.evaluate import efficiency
from rayonale.evaluate.cells import Cells, Table
from rayonale.evaluate.efficiency import Needed
from rayonale.evaluate.margins import slope_at_zero
from rayonale.evaluate.two_way import Mean, draws_of_means, holm, mean_of

Row = dict[str, Any]

SHARE = (0.0, 1.0)
# Of the reference method's gain at the largest size: what "as good as" is measured by.
GAIN = 0.9
RESAMPLES = 4_000


@dataclass(frozen=True)
class Study:
    """Everything that a study's tables and claims are computed from.

    Attributes:
        roles: what the paper calls a method → method of the cells.
        target: win rate against the baseline that sizes are read off at; None takes `GAIN`.
        margins: policy → entry of a `margins` stage.
        runs: policy → {"pairs": trained on, "seconds": of training}.
    """

    cells: Cells
    roles: Mapping[str, str] = field(default_factory=dict)
    target: float | None = None
    level: float = 0.95
    seed: int = 0
    margins: Mapping[str, Row] = field(default_factory=dict)
    runs: Mapping[str, Row] = field(default_factory=dict)

    def role(self, name: str) -> str | None:
        """Method that plays a role; None where no cell does."""
        method = self.roles.get(name, name)
        return method if method in self.cells.methods else None

    def mean(
        self, found: Table | None, null: float = 0.5, bounds: tuple[float, float] | None = SHARE
    ) -> Mean | None:
        """Mean of a table over its seeds and prompts."""
        if found is None:
            return None
        return mean_of(found.values, null=null, bounds=bounds, level=self.level, seed=self.seed)

    def reached(self) -> float | None:
        """The win rate that sizes are read off at; None where the reference gains nothing."""
        if self.target is not None:
            return self.target
        method = self.role("dpo") or self.cells.methods[0]
        top = self.mean(self.cells.against_baseline((method, self.cells.sizes(method)[-1])))
        return 0.5 + GAIN * (top.value - 0.5) if top and top.value > 0.5 else None

    def curves(self, methods: Sequence[str]) -> _Curves | None:
        """Win rates by size of some methods, simulated together."""
        return _curves(self.cells, tuple(methods), self.seed)

    def needs(self, method: str) -> Needed | None:
        """Pairs that a method needs for the target; None with a single size or no target."""
        target, curves = self.reached(), self.curves([method])
        if target is None or curves is None or len(curves.sizes[method]) < 2:
            return None
        return efficiency.needed(
            target, curves.sizes[method], curves.means[method], curves.draws[method],
            level=self.level,
        )  # fmt: skip

    def times_fewer(self, many: str, few: str) -> Needed | None:
        """How many times as many pairs one method needs as another for the target."""
        target, both = self.reached(), self.curves([many, few])
        if target is None or both is None or min(len(both.sizes[m]) for m in (many, few)) < 2:
            return None
        return efficiency.times_fewer(
            target, (both.sizes[many], both.sizes[few]), (both.means[many], both.means[few]),
            (both.draws[many], both.draws[few]), level=self.level,
        )  # fmt: skip


@dataclass(frozen=True)
class _Curves:
    """method → sizes [K], means [K], draws [R, K]; draws of all methods belong together."""

    sizes: dict[str, list[int]]
    means: dict[str, Any]
    draws: dict[str, Any]


def _curves(cells: Cells, methods: tuple[str, ...], seed: int) -> _Curves | None:
    places = [(method, size) for method in methods for size in cells.sizes(method)]
    tables = [cells.against_baseline(place) for place in places]
    known = [found for found in tables if found is not None]
    if len(known) < len(places):
        return None
    seeds = set.intersection(*(set(found.seeds) for found in known))
    prompts = set.intersection(*(set(found.prompts) for found in known))
    if not seeds or not prompts:
        return None
    values = np.stack([_restricted(found, seeds, prompts) for found in known])
    drawn = draws_of_means(values, resamples=RESAMPLES, seed=seed)
    at = {m: [k for k, (method, _) in enumerate(places) if method == m] for m in methods}
    return _Curves(
        {m: cells.sizes(m) for m in methods},
        {m: values.mean(axis=(1, 2))[at[m]] for m in methods},
        {m: drawn[:, at[m]] for m in methods},
    )


def _restricted(found: Table, seeds: set[int], prompts: set[str]) -> Any:
    rows = [i for i, seed in enumerate(found.seeds) if seed in seeds]
    columns = [i for i, prompt in enumerate(found.prompts) if prompt in prompts]
    return found.values[np.ix_(rows, columns)]


def tables(study: Study, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """All tables of the page, JSON-able.

    Args:
        pairs: methods that are tested against each other at equal size.
    """
    reference = study.role("dpo") or study.cells.methods[0]
    return {
        "methods": study.cells.methods,
        "reference": reference,
        "curves": curves(study),
        "against_reference": against_reference(study, reference),
        "tests": tests(study, pairs),
        "needed": needed(study, reference),
        "target": study.reached(),
        "margins": margins(study),
    }


def curves(study: Study) -> list[Row]:
    """One entry a method and size: win rate against the baseline, length, time."""
    found = []
    for method in study.cells.methods:
        for size in study.cells.sizes(method):
            table = study.cells.against_baseline((method, size))
            mean = study.mean(table)
            if table is None or mean is None:
                continue
            length = study.mean(study.cells.lengths((method, size)), bounds=None)
            runs = [study.runs[p] for p in study.cells.policies((method, size)).values()
                    if p in study.runs]  # fmt: skip
            found.append(
                {
                    "method": method, "size": size, **mean.as_dict(),
                    "seed_names": list(table.seeds), "prompts_left_out": table.left_out,
                    "length": _interval(length),
                    "pairs": [run["pairs"] for run in runs],
                    "seconds": [run["seconds"] for run in runs],
                }
            )  # fmt: skip
    return found


def against_reference(study: Study, reference: str) -> list[Row]:
    """Win rate of every method and size against the reference at its largest size."""
    top = (reference, study.cells.sizes(reference)[-1])
    found = []
    for method in study.cells.methods:
        for size in study.cells.sizes(method):
            mean = study.mean(study.cells.against((method, size), top))
            if (method, size) != top and mean is not None:
                found.append(
                    {"method": method, "size": size, "against": list(top), **mean.as_dict()}
                )
    return found


def tests(study: Study, pairs: Sequence[tuple[str, str]]) -> list[Row]:
    """Paired tests at equal size: win rate of a against b, seed by seed, prompt by prompt.

    `p_holm` is adjusted for all tests of the table.
    """
    found = []
    for a, b in pairs:
        for size in sorted(set(study.cells.sizes(a)) & set(study.cells.sizes(b))):
            mean = study.mean(study.cells.against((a, size), (b, size)))
            if mean is not None:
                found.append({"a": a, "b": b, "size": size, **mean.as_dict()})
    for entry, adjusted in zip(found, holm([e["p_value"] for e in found]), strict=True):
        entry["p_holm"] = adjusted
    return found


def needed(study: Study, reference: str) -> list[Row]:
    """Pairs that each method needs for the target, and how many times fewer than the reference."""
    found = []
    for method in study.cells.methods:
        needs = study.needs(method)
        if needs is None:
            continue
        fewer = study.times_fewer(reference, method) if method != reference else None
        found.append(
            {
                "method": method,
                **needs.as_dict(),
                "sizes": study.cells.sizes(method),
                "times_fewer": fewer.as_dict() if fewer else None,
            }
        )
    return found


def margins(study: Study) -> list[Row]:
    """Sorted margins of each method at its largest size, the mean over seeds."""
    found = []
    for method in study.cells.methods:
        size = study.cells.sizes(method)[-1]
        entries = [
            study.margins[policy]
            for policy in study.cells.policies((method, size)).values()
            if policy in study.margins
        ]
        if entries:
            found.append(
                {
                    "method": method, "size": size, "seeds": len(entries),
                    "pairs": entries[0]["pairs"],
                    "sorted": np.mean([e["sorted"] for e in entries], axis=0).round(5).tolist(),
                    "tail": [e["quantile_95"] - e["quantile_05"] for e in entries],
                    "slope": [slope_at_zero(e["sorted"]) for e in entries],
                    "accuracy": [e["accuracy"] for e in entries],
                }
            )  # fmt: skip
    return found


def _interval(mean: Mean | None) -> Row | None:
    return {"value": mean.value, "low": mean.low, "high": mean.high} if mean else None
