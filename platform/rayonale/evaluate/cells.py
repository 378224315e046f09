"""The cells of a sweep, and how their answers compare: what a study computes from.

    rows of win_rates ─► Verdicts: outcome of a against b for each prompt
    cells {policy, method, size, seed} ─┴─► table [S, P] of one method and size against another

An exact scorer's scores decide any two policies, whichever were compared; an LLM judge decides
only the pairs that it was shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import Field

from rayonale import storage
from rayonale.evaluate.statistics import Floats, by_prompt, outcome
from rayonale.stages import Settings, StageOutput

Outcomes = dict[Any, float]  # prompt id → mean outcome, 1 where a is better
Place = tuple[str, int]  # (method, size)

_COLUMNS = (
    "judge", "judge_kind", "policy_a", "policy_b", "prompt_id", "sample", "outcome",
    "score_a", "score_b", "response_a", "response_b",
)  # fmt: skip


class CellSettings(Settings):
    """One trained policy of a sweep.

    Attributes:
        policy: its name in comparisons (of its train stage).
        method: what is compared: `dpo`, `rdpo`, `permuted` …
        size: training pairs that were asked for.
        seed: repetition; cells of one seed share rows and are compared with each other.
    """

    policy: str
    method: str
    size: int = Field(gt=0)
    seed: int


@dataclass
class Verdicts:
    """One judge's opinion of all that was compared.

    Attributes:
        kind: `scorer` or `llm`.
        tie_margin: scores no further apart are a tie.
        compared: (a, b) → prompt → outcomes.
        scores: policy → (prompt, sample) → score.
        lengths: policy → (prompt, sample) → characters.
    """

    judge: str
    kind: str
    tie_margin: float = 0.0
    compared: dict[tuple[str, str], list[tuple[str, float]]] = field(default_factory=dict)
    scores: dict[str, dict[tuple[str, int], float]] = field(default_factory=dict)
    lengths: dict[str, dict[tuple[str, int], int]] = field(default_factory=dict)

    def outcomes(self, a: str, b: str) -> Outcomes | None:
        """Mean outcome of a against b for each prompt; None where the judge has not seen them."""
        if (a, b) in self.compared:
            return _means(self.compared[a, b])
        if (b, a) in self.compared:
            return {key: 1 - value for key, value in _means(self.compared[b, a]).items()}
        of_a, of_b = self.scores.get(a), self.scores.get(b)
        if of_a is None or of_b is None:
            return None
        return _means(
            (place[0], self._outcome(of_a[place], of_b[place]))
            for place in sorted(of_a.keys() & of_b.keys())
        )

    def _outcome(self, one: float, other: float) -> float:
        return outcome(one, other) if abs(one - other) > self.tie_margin else 0.5

    def length(self, policy: str) -> Outcomes | None:
        """Mean length of a policy's answers to each prompt, characters."""
        found = self.lengths.get(policy)
        return _means((key, float(n)) for (key, _), n in found.items()) if found else None


def _means(pairs: Iterable[tuple[Any, float]]) -> Outcomes:
    pairs = list(pairs)
    return dict(by_prompt([value for _, value in pairs], [key for key, _ in pairs]))


def read_verdicts(outputs: Sequence[StageOutput], judge: str | None) -> Verdicts:
    """A judge's verdicts out of `win_rates` stages.

    Args:
        judge: its name; None takes the first scorer, else the first judge.

    Raises:
        ValueError: nothing was compared, or no such judge.
    """
    found: dict[str, Verdicts] = {}
    for output in outputs:
        margins = _tie_margins(output.manifest)
        for row in storage.read_rows(output.rows, list(_COLUMNS)):
            one = found.setdefault(
                row["judge"],
                Verdicts(row["judge"], row["judge_kind"], margins.get(row["judge"], 0.0)),
            )
            _add(one, row)
    if not found:
        raise ValueError("win_rates: no comparison was read; expected one or more")
    if judge is None:
        scorers = [one for one in found.values() if one.kind == "scorer"]
        return (scorers or list(found.values()))[0]
    if judge not in found:
        raise ValueError(f"judge: no comparison by {judge!r}; judges: {', '.join(found)}")
    return found[judge]


def _tie_margins(manifest: Mapping[str, Any]) -> dict[str, float]:
    judges = manifest.get("settings", {}).get("judges") or []
    return {one["name"]: float(one.get("tie_margin") or 0.0) for one in judges}


def _add(verdicts: Verdicts, row: Mapping[str, Any]) -> None:
    pair = row["policy_a"], row["policy_b"]
    verdicts.compared.setdefault(pair, []).append((row["prompt_id"], row["outcome"]))
    place = row["prompt_id"], row["sample"]
    for side in ("a", "b"):
        policy = row[f"policy_{side}"]
        verdicts.lengths.setdefault(policy, {})[place] = len(row[f"response_{side}"])
        if row["judge_kind"] == "scorer":
            verdicts.scores.setdefault(policy, {})[place] = row[f"score_{side}"]


@dataclass(frozen=True)
class Table:
    """Outcomes of one method and size against something, over shared seeds and prompts.

    Attributes:
        values: [S, P].
        seeds: [S]; prompts: [P] ids.
        left_out: prompts that only some of the policies have.
    """

    values: Floats
    seeds: tuple[int, ...]
    prompts: tuple[str, ...]
    left_out: int


@dataclass(frozen=True)
class Cells:
    """A sweep's policies and the verdicts on them."""

    cells: Sequence[CellSettings]
    baseline: str
    verdicts: Verdicts

    @property
    def methods(self) -> list[str]:
        """Methods in the order of the settings."""
        return list(dict.fromkeys(cell.method for cell in self.cells))

    def sizes(self, method: str) -> list[int]:
        """Sizes that a method was trained with, ascending."""
        return sorted({cell.size for cell in self.cells if cell.method == method})

    @property
    def largest(self) -> int:
        """The largest size of all."""
        return max(cell.size for cell in self.cells)

    def policies(self, place: Place) -> dict[int, str]:
        """seed → policy of a method and size."""
        return {c.seed: c.policy for c in self.cells if (c.method, c.size) == place}

    def against_baseline(self, place: Place) -> Table | None:
        """Outcomes of a method and size against the baseline."""
        return table(
            {s: self.verdicts.outcomes(p, self.baseline) for s, p in self.policies(place).items()}
        )

    def against(self, a: Place, b: Place) -> Table | None:
        """Outcomes of a against b, seed by seed."""
        mine, theirs = self.policies(a), self.policies(b)
        shared = [seed for seed in mine if seed in theirs]
        return table({s: self.verdicts.outcomes(mine[s], theirs[s]) for s in shared})

    def differences(self, a: Place, b: Place) -> Table | None:
        """Win rate of a against the baseline less that of b, prompt by prompt, seed by seed."""
        mine, theirs = self.policies(a), self.policies(b)
        found: dict[int, Outcomes | None] = {}
        for seed in [seed for seed in mine if seed in theirs]:
            one = self.verdicts.outcomes(mine[seed], self.baseline)
            other = self.verdicts.outcomes(theirs[seed], self.baseline)
            both = one.keys() & other.keys() if one and other else set()
            found[seed] = {k: one[k] - other[k] for k in both} if one and other else None
        return table(found)

    def lengths(self, place: Place) -> Table | None:
        """Length of the answers of a method and size, characters."""
        return table({s: self.verdicts.length(p) for s, p in self.policies(place).items()})


def table(by_seed: Mapping[int, Outcomes | None]) -> Table | None:
    """Values of several seeds as one table over the prompts that all have.

    None where there is no seed, or one that was not compared.
    """
    rows = {seed: by_seed[seed] for seed in sorted(by_seed)}
    known = [row for row in rows.values() if row]
    if not known or len(known) < len(rows):
        return None
    shared = sorted(set.intersection(*(set(row) for row in known)))
    if not shared:
        return None
    everything = set.union(*(set(row) for row in known))
    values = np.array([[row[key] for key in shared] for row in known])
    return Table(values, tuple(rows), tuple(shared), len(everything) - len(shared))
