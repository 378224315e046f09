"""Measured values a unit (a prompt, a pair, a question), out of the rows that stages leave.

    win_rates  outcome a prompt, of each comparison and judge; score a prompt, of each policy
    margins    rightly ordered (1, ½, 0) and margin a pair, of each policy
    harness    each metric a question

With values a unit, two runs that measured the same units are compared unit by unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rayonale import storage
from rayonale.evaluate.statistics import by_prompt, mean_interval, sign_flip_test
from rayonale.report.evidence import has_rows
from rayonale.report.text import judge_label
from rayonale.stages import StageOutput


@dataclass(frozen=True)
class Quantity:
    """What was measured: `Win rate` of `dpo against sft` by `exact rubric`."""

    what: str
    of: str
    by: str = ""
    share: bool = False


Units = Mapping[str, float]
Values = dict[Quantity, Units]


def measured(output: StageOutput) -> Values:
    """Quantity → unit's id → value; nothing where the rows are gone."""
    read = {"win_rates": _win_rates, "margins": _margins, "harness": _harness}.get(output.kind)
    if read is None or not has_rows(output):
        return {}
    found: dict[Quantity, tuple[list[str], list[float]]] = {}
    for quantity, unit, value in read(output):
        units, values = found.setdefault(quantity, ([], []))
        units.append(unit)
        values.append(value)
    return {
        quantity: {str(unit): mean for unit, mean in by_prompt(values, units).items()}
        for quantity, (units, values) in found.items()
    }


Measured = Iterator[tuple[Quantity, str, float]]


def _win_rates(output: StageOutput) -> Measured:
    columns = ["policy_a", "policy_b", "judge", "judge_kind", "prompt_id", "outcome", "score_a",
               "score_b"]  # fmt: skip
    for row in storage.read_rows(output.rows, columns):
        by, unit = judge_label(row["judge"]), row["prompt_id"]
        against = f"{row['policy_a']} against {row['policy_b']}"
        yield Quantity("Win rate", against, by, share=True), unit, row["outcome"]
        if row["judge_kind"] == "scorer":
            yield Quantity("Score", row["policy_a"], by), unit, row["score_a"]
            yield Quantity("Score", row["policy_b"], by), unit, row["score_b"]


def _margins(output: StageOutput) -> Measured:
    for row in storage.read_rows(output.rows, ["id", "policy", "margin"]):
        right = 0.5 if row["margin"] == 0 else float(row["margin"] > 0)
        yield Quantity("Ordered rightly", row["policy"], share=True), row["id"], right
        yield Quantity("Reward margin", row["policy"]), row["id"], row["margin"]


def _harness(output: StageOutput) -> Measured:
    for row in storage.read_rows(output.rows, ["id", "task", "filter", "metrics"]):
        for metric in row["metrics"]:
            by = "" if row["filter"] == "none" else str(row["filter"])
            of = f"{row['task']} {metric['name']}"
            yield Quantity("Harness", of, by), row["id"], metric["value"]


@dataclass(frozen=True)
class Difference:
    """Of a run against the first, over the units that both have.

    Attributes:
        value, low, high: mean difference a unit and its bootstrap interval.
        p_value: two-sided, of a sign-flip test.
        units: that both measured.
    """

    value: float
    low: float
    high: float
    p_value: float
    units: int


def difference(first: Units, other: Units) -> Difference | None:
    """other − first, unit by unit; None where they have no unit in common."""
    both = sorted(first.keys() & other.keys())
    if not both:
        return None
    apart = [other[unit] - first[unit] for unit in both]
    found = mean_interval(apart)
    return Difference(found.value, found.low, found.high, sign_flip_test(apart), len(both))
