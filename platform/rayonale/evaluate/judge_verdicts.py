"""From N judgements of an input to one verdict, by a strategy; and what the orders say about bias.

    first      the first judgement            vote    the commonest verdict (self-consistency)
    mean       mean of the readable verdicts  expected  mean of the expected verdicts
    best_of_n  the verdict nearest the label: an upper bound, for it knows the label

Two responses: the verdicts in both orders are put together; where they disagree the input is a tie
and counted as flipped. Two responses scored apart: the higher score is the better one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rayonale.enrich.judgement_prompts import is_pairwise
from rayonale.enrich.transcript import response_text

Row = Mapping[str, Any]
Strategy = Literal["first", "vote", "mean", "expected", "best_of_n"]
Kind = Literal["pointwise", "pairwise", "apart"]


@dataclass(frozen=True)
class Told:
    """What a judge says of an input.

    Attributes:
        value: 1-5, or 1, 1.5, 2; None where it cannot be told.
        flipped: the two orders disagree; None where there is one order.
    """

    value: float | None
    flipped: bool | None = None


def kind_of(judgements: Sequence[Row]) -> Kind:
    """How an input was judged."""
    order = judgements[0]["order"]
    return "pairwise" if is_pairwise(order) else "apart" if order in ("a", "b") else "pointwise"


def told_of(judgements: Sequence[Row], strategy: Strategy, label: float | None) -> Told:
    """A verdict from all judgements of an input."""
    by_order: dict[str | None, list[Row]] = {}
    for each in judgements:
        by_order.setdefault(each["order"], []).append(each)
    kind = kind_of(judgements)
    if kind == "apart":  # the label is of the pair: no score of one response is nearest to it
        values = [by_strategy(by_order.get(side, []), strategy, None) for side in ("a", "b")]
        if None in values:
            return Told(None)
        a, b = values
        return Told(1.5 if a == b else 1.0 if a > b else 2.0)  # type: ignore[operator]
    values = [by_strategy(each, strategy, label) for each in by_order.values()]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return Told(None)
    if kind == "pointwise" or len(known) == 1:
        return Told(known[0])
    first, second = known
    flipped = (first - 1.5) * (second - 1.5) < 0 or (first == 1.5) != (second == 1.5)
    if strategy in ("mean", "expected"):
        return Told((first + second) / 2, flipped)
    return Told(1.5 if first != second else first, flipped)


def by_strategy(judgements: Sequence[Row], strategy: Strategy, label: float | None) -> float | None:
    """One verdict from the judgements of one order; None where none can be told."""
    if not judgements:
        return None
    column = "expected" if strategy == "expected" else "verdict"
    counted = judgements[:1] if strategy == "first" else judgements
    known = [float(each[column]) for each in counted if each[column] is not None]
    if not known:
        return None
    if strategy == "vote":
        return Counter(known).most_common(1)[0][0]  # of equally common ones that which came first
    if strategy == "best_of_n":
        return known[0] if label is None else min(known, key=lambda value: abs(value - label))
    return sum(known) / len(known)


def strategies_for(judgements: Sequence[Row], wanted: Sequence[Strategy]) -> list[Strategy]:
    """The strategies among the wanted that these judgements have something for."""
    repeats = max(Counter(each["order"] for each in judgements).values())
    has_expected = any(each["expected"] is not None for each in judgements)
    found: list[Strategy] = []
    for strategy in wanted:
        if strategy == "first" or (has_expected if strategy == "expected" else repeats > 1):
            found.append(strategy)
    return found


def names_first(judgement: Row) -> float | None:
    """Whether a comparison names the response that was shown first; ½ for a tie."""
    value = judgement["verdict"]
    if value is None or not is_pairwise(judgement["order"]):
        return None
    return 2.0 - value if judgement["order"] == "ab" else value - 1.0


def names_longer(row: Row, value: float | None) -> float | None:
    """Whether a verdict names the response with more words; None where both have as many."""
    if value is None or len(row["responses"]) != 2:
        return None
    first, second = (len(response_text(each).split()) for each in row["responses"])
    if first == second:
        return None
    return 2.0 - value if first > second else value - 1.0
