"""What the headline says for which numbers."""

from __future__ import annotations

from typing import Any

import pytest

from rayonale.report.claims import Trained, beats, claims, headline, reaches

TRAINED = {
    "sft": Trained("sft", "sft", 1_800),
    "dpo": Trained("dpo", "dpo", 1_800),
    "rdpo": Trained("rdpo", "rdpo", 1_800),
    "rdpo_third": Trained("rdpo_third", "rdpo", 600),
}


def entry(a: str, b: str, low: float, high: float, judge: str = "rubric") -> dict[str, Any]:
    return {"a": a, "b": b, "judge": judge, "value": (low + high) / 2, "low": low, "high": high,
            "level": 0.95, "prompts": 200, "wins": 1, "ties": 0, "losses": 0}  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "beaten", "reached"),
    [
        (0.51, 0.60, "yes", "yes"),
        (0.50, 0.60, "cannot tell", "yes"),
        (0.46, 0.55, "cannot tell", "yes"),
        (0.44, 0.55, "cannot tell", "cannot tell"),
        (0.40, 0.50, "cannot tell", "cannot tell"),
        (0.40, 0.49, "no", "no"),
        (0.46, 0.49, "no", "yes"),  # worse for sure, but by less than the margin
    ],
)
def test_answers_by_the_interval(low: float, high: float, beaten: str, reached: str) -> None:
    assert beats(entry("dpo", "sft", low, high)) == beaten
    assert reaches(entry("rdpo_third", "dpo", low, high)) == reached


def test_less_data_asks_whether_it_reaches() -> None:
    (claim,) = claims([entry("rdpo_third", "dpo", 0.40, 0.49)], TRAINED)
    assert claim.question == "Does rdpo_third, with 600 pairs, reach dpo, with 1,800?"
    assert (claim.answer, claim.kind) == ("no", "reaches")
    assert "falls short" in claim.sentence and "44.5\u00a0%" in claim.sentence


def test_comparisons_are_turned_to_the_side_that_one_asks_from() -> None:
    # sft against dpo at 30-40 % is dpo against sft at 60-70 %
    (claim,) = claims([entry("sft", "dpo", 0.3, 0.4)], TRAINED)
    assert (claim.a, claim.b, claim.answer) == ("dpo", "sft", "yes")
    assert "65.0\u00a0%" in claim.sentence and "[60.0, 70.0]" in claim.sentence
    (claim,) = claims([entry("dpo", "rdpo_third", 0.3, 0.4)], TRAINED)
    assert (claim.a, claim.b, claim.kind) == ("rdpo_third", "dpo", "reaches")


def test_unknown_policies_are_compared_as_they_come() -> None:
    (claim,) = claims([entry("theirs", "ours", 0.6, 0.7)], {})
    assert claim.question == "Does theirs beat ours?"


def test_headline_in_words_by_the_exact_judge_first() -> None:
    entries = [
        entry("dpo", "sft", 0.45, 0.60, "llm"),
        entry("dpo", "sft", 0.55, 0.70), entry("rdpo", "sft", 0.6, 0.7),
        entry("rdpo", "dpo", 0.3, 0.4), entry("rdpo_third", "dpo", 0.4, 0.6),
    ]  # fmt: skip
    told = headline(claims(entries, TRAINED, frozenset({"rubric"})))
    assert told == [
        "dpo and rdpo beat sft.",
        "rdpo loses to dpo.",
        "Whether rdpo_third (600 pairs) reaches dpo (1,800 pairs), these data cannot tell.",
        "The judge llm gives the same answer to 0 of 1 questions.",
    ]
    assert headline([]) == []
