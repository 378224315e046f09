"""What the headline says for which numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.report.realistic import write_stage

from rayonale.report.claims import Trained, beats, claims, flip_rates, headline, reaches
from rayonale.report.evidence import Evidence
from rayonale.report.sections.headline import trained

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


def test_questions_left_open_are_told_together() -> None:
    entries = [entry("dpo", "sft", 0.45, 0.55), entry("rdpo", "sft", 0.4, 0.6)]
    assert headline(claims(entries, TRAINED)) == [
        "Whether dpo or rdpo beats sft, these data cannot tell."
    ]


def test_reaching_a_policy_that_learnt_nothing_says_little() -> None:
    entries = [entry("dpo", "sft", 0.45, 0.55), entry("rdpo_third", "dpo", 0.46, 0.55)]
    found = claims(entries, TRAINED)
    assert found[1].answer == "yes"
    assert found[1].sentence.endswith("It says little: dpo itself is not shown to beat sft.")
    assert headline(found)[0] == (
        "rdpo_third (600 pairs) reaches dpo (1,800 pairs), which itself is not shown to beat sft."
    )
    entries[0] = entry("dpo", "sft", 0.55, 0.65)
    assert claims(entries, TRAINED)[1].caveat == ""


def test_a_judge_that_flips_is_called_unreliable() -> None:
    flips = [{"judge": "llm", "flip_rate": 0.9, "pairs": 10}, {"judge": "llm", "flip_rate": 0.3,
             "pairs": 30}, {"judge": "rubric", "flip_rate": None, "pairs": 40}]  # fmt: skip
    assert flip_rates(flips) == {"llm": pytest.approx(0.45)}
    found = claims([entry("dpo", "sft", 0.55, 0.65, "llm")], TRAINED)
    assert len(headline(found, {"llm": 0.45})) == 1
    assert headline(found, {"llm": 0.9})[-1] == (
        "The judge llm cannot be relied on: its two orders disagree in 90\u00a0% of the pairs."
    )


def test_rows_of_told_goals_are_not_counted_as_pairs(tmp_path: Path) -> None:
    """RA makes two rows of a pair: DPO on the same pairs has no fewer of them."""
    plain = {"loss": {"name": "dpo"}}
    told = plain | {"goal_prompt": {"template": "goal_system"}}
    stages = [
        write_stage(tmp_path, "dpo", "train", rows_out=3_963, details=plain),
        write_stage(tmp_path, "ra", "train", rows_out=6_766, details=told),
    ]
    found = trained(Evidence("Goals", stages))
    assert [(found[name].pairs, found[name].loss) for name in ("dpo", "ra")] == [
        (3_963, "dpo"), (0, "dpo")
    ]  # fmt: skip
    (claim,) = claims([entry("ra", "dpo", 0.47, 0.56)], found)
    assert claim.question == "Does ra beat dpo?"
