"""What verdicts add up to: measures with intervals, errors, bias, and what cannot be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from rayonale.evaluate import agreement
from rayonale.evaluate.judge_verdicts import kind_of, names_first, names_longer
from rayonale.evaluate.statistics import mean_interval

Row = dict[str, Any]

POINTWISE = ("accuracy", "within_one", "mean_error", "pearson", "spearman", "kendall", "kappa",
             "quadratic_kappa")  # fmt: skip
# Measures of verdicts: a mean of several is taken to the nearest first.
OF_VERDICTS = ("accuracy", "kappa")
PAIRWISE = ("tie_aware", "accuracy", "kappa")


def measured(group: Sequence[Row], bias: Bias, kind: str, unreadable: int, options: Row) -> Row:
    """Measures of one judge, kind and strategy."""
    told = [row["told"] for row in group]
    label = [row["label"] for row in group]
    whole = agreement.settled(np.array(told), kind != "pointwise")
    measures = {
        name: agreement.interval(
            agreement.MEASURES[name], whole if name in OF_VERDICTS else told, label,
            **options,
        ).as_dict()
        for name in (POINTWISE if kind == "pointwise" else PAIRWISE)
    }  # fmt: skip
    right = measures["tie_aware" if kind != "pointwise" else "accuracy"]["value"]
    flips = [float(row["flipped"]) for row in group if row["flipped"] is not None]
    categories = _by_category(group, kind, options)
    return {
        "inputs": len(group) + unreadable,
        "unreadable": unreadable,
        "accuracy_all": right * len(group) / (len(group) + unreadable),
        "measures": measures,
        "errors": _histogram(group) if kind == "pointwise" else None,
        "flip_rate": _share(flips, options),
        **bias.shares(kind, options),
        "by_category": categories,
        "mean_of_categories": (
            sum(each["value"] for each in categories) / len(categories) if categories else None
        ),
    }


def _by_category(group: Sequence[Row], kind: str, options: Row) -> list[Row]:
    found: dict[str, list[Row]] = {}
    for row in group:
        if row["category"] is not None:
            found.setdefault(row["category"], []).append(row)
    measure = agreement.accuracy if kind == "pointwise" else agreement.tie_aware
    return [
        {
            "category": name,
            **agreement.interval(
                measure,
                [row["told"] for row in rows],
                [row["label"] for row in rows],
                **options,
            ).as_dict(),
        }
        for name, rows in sorted(found.items())
    ]


def _histogram(group: Sequence[Row]) -> dict[str, int]:
    """Score − label, to the nearest whole number → inputs."""
    errors = Counter(round(row["told"] - row["label"]) for row in group)
    return {str(error): errors[error] for error in range(-4, 5)}


def _share(values: Sequence[float], options: Row) -> Row | None:
    if not values:
        return None
    chosen = {key: options[key] for key in ("level", "seed")}
    return mean_interval(values, bounds=(0.0, 1.0), **chosen).as_dict()


class Bias:
    """What does not depend on the strategy: parse failures, and what verdicts go with."""

    def __init__(self) -> None:
        self.judgements: Counter[str] = Counter()
        self.reasons: dict[str, Counter[str]] = {}
        self.first: dict[str, list[float]] = {}
        self.longer: dict[str, list[float]] = {}
        self.unreadable: Counter[tuple[str, str]] = Counter()

    def see(self, row: Row) -> None:
        """Take in an input: means over its judgements, as inputs are the unit of intervals."""
        kind = kind_of(row["judgements"])
        self.judgements[kind] += len(row["judgements"])
        reasons = [each["reason"] for each in row["judgements"] if each["reason"]]
        self.reasons.setdefault(kind, Counter()).update(reasons)
        for found, values in (
            (self.first, [names_first(each) for each in row["judgements"]]),
            (self.longer, [names_longer(row, e["verdict"]) for e in row["judgements"]]),
        ):
            known = [value for value in values if value is not None]
            if known and kind == "pairwise":
                found.setdefault(kind, []).append(sum(known) / len(known))

    def shares(self, kind: str, options: Row) -> Row:
        """For a table's entry."""
        reasons = self.reasons.get(kind, Counter())
        return {
            "judgements": self.judgements[kind],
            "judgements_unreadable": reasons.total(),
            "parse_failure_rate": reasons.total() / max(1, self.judgements[kind]),
            "reasons": dict(reasons),
            "first_share": _share(self.first.get(kind, []), options),
            "longer_share": _share(self.longer.get(kind, []), options),
        }
