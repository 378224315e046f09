"""Both orders of a judge → one outcome."""

from __future__ import annotations

import pytest

from rayonale.evaluate.comparisons import judge_both_orders
from rayonale.evaluate.verdicts import PAIRWISE_TIE


@pytest.mark.parametrize(
    ("ab", "ba", "outcome", "flipped"),
    [
        ("1", "2", 1.0, False),  # a first: first; b first: second → a both times
        ("2", "1", 0.0, False),
        ("1", "1", 0.5, True),  # always the first shown: position bias
        ("2", "2", 0.5, True),
    ],
)
def test_orders_that_disagree_are_a_tie_and_a_flip(
    ab: str, ba: str, outcome: float, flipped: bool
) -> None:
    found = judge_both_orders(f"x [RESULT] {ab}", f"y [RESULT] {ba}")
    assert (found.outcome, found.flipped, found.reason) == (outcome, flipped, None)


def test_ties_where_the_template_offers_them() -> None:
    tie, first = "[RESULT] tie", "[RESULT] 1"
    both = judge_both_orders(tie, tie, choices=PAIRWISE_TIE)
    assert (both.outcome, both.flipped) == (0.5, False)
    half = judge_both_orders(first, tie, choices=PAIRWISE_TIE)
    assert (half.outcome, half.flipped) == (0.5, True)


def test_one_unreadable_order_leaves_the_pair_out() -> None:
    found = judge_both_orders("x [RESULT] 1", "no verdict")
    assert (found.outcome, found.reason) == (None, "unreadable_no_marker")
    found = judge_both_orders("", "x [RESULT] 1", finish_reasons=("length", "stop"))
    assert (found.outcome, found.reason) == (None, "unreadable_cut_off")
