"""The teacher: literal examples, and truth measured over many pairs."""

import json
import random
from collections import defaultdict
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayonale.tinyworld import ATTRIBUTES, score, teacher
from rayonale.tinyworld.claims import Claim, claims_in
from rayonale.tinyworld.measures import Pair, held_out_pairs
from rayonale.tinyworld.rubric import verdict

PROMPT = (
    "Name three birds in alphabetical order in a calm tone. Use the word river. End with thanks."
)
GOOD = "Softly, here are crow, heron and swan by the river. Thank you."
BAD = "Alas, here are heron, crow, saw and owl. That is all."


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return held_out_pairs(400, seed=5)


def grades(rationale: str, chosen_first: bool = True) -> list[int]:
    found = teacher.grades_of_rationale(PROMPT, GOOD, BAD, rationale, chosen_first)
    return list(found.values())


def test_grades_worked_by_hand() -> None:
    """GOOD leads on all: kind 2, number 2, order 2, tone 4, ending 4, wording 4."""
    assert grades("Response A is better: it wins on tone and ending.") == [5, 5, 5, 5]
    # 4 of the 8 points of the two widest leads are told: 2 + round(1.5).
    assert grades("Response A is better: it wins on tone.") == [4, 5, 5, 5]
    assert grades("Response A sounds calm as asked, but response B sounds sad.")[2:] == [5, 5]
    # Both places exchanged: nothing true, and against the response that was preferred.
    assert grades("Response B is better: it wins on tone and ending.") == [1, 5, 1, 3]
    # The same words are right when the chosen response stands in place B.
    assert grades("Response B is better: it wins on tone and ending.", False) == [5, 5, 5, 5]
    # Details of another pair.
    shuffled = "Response A names 5 as asked, but response B puts elm before ash."
    assert grades(shuffled)[:3] == [1, 1, 1]
    assert grades("I like response A because it is so nice and fun!") == [1, 1, 3, 3]
    assert grades("") == [1, 1, 3, 2]
    # It contradicts itself.
    assert grades("Response A wins on tone. Response A loses on tone.")[3] < 5


def test_the_explanation_of_grades_by_hand() -> None:
    text = "Response A is better: it wins on tone. Response B keeps the order."
    assert teacher.explanation_of_grades(PROMPT, GOOD, BAD, text) == (
        "kind 5 4, number 5 3, order 5 2, tone 5 1, ending 5 1, wording 5 1: "
        "A tone true, B order false, A better true"
    )
    assert teacher.explanation_of_grades(PROMPT, GOOD, BAD, "Nice!").endswith(": no claims")


def test_claims_are_read_with_their_place() -> None:
    text = "Response B puts heron before crow and lacks river, while response A keeps the order."
    assert claims_in(text).claims == (
        Claim("B", "order", -1, "order_bad", ("heron", "crow")),
        Claim("B", "wording", -1, "wording_lacks", ("river",)),
        Claim("A", "order", 1, "order_good", ("keeps the order",)),
    )
    assert claims_in("Nothing of this world.").claims == ()


@pytest.mark.parametrize(
    ("rationale", "named"),
    [
        ("Response A wins on tone.", True),
        ("Response B lacks river.", True),
        ("Response B sounds sad.", True),
        ("Response B sounds formal.", False),
        ("Response B wins on tone.", False),
        ("Response A is better.", False),
        ("Response B names 3, not 2.", False),
        ("", False),
    ],
)
def test_names_true_difference(rationale: str, named: bool) -> None:
    assert teacher.names_true_difference(PROMPT, GOOD, BAD, rationale) is named
    swapped = teacher.reverse_rationale(rationale)
    assert teacher.names_true_difference(PROMPT, GOOD, BAD, swapped, chosen_first=False) is named


def test_true_rationales_have_fives_and_controls_do_not(pairs: list[Pair]) -> None:
    rng = random.Random(0)
    for write in (teacher.general_rationale, teacher.detailed_rationale):
        true = [write(*pair.arguments(), rng, pair.first) for pair in pairs]
        assert len(set(true)) > 0.4 * len(true)
        kinds = {
            "true": true,
            "shuffled": [*true[1:], true[0]],
            "reversed": [teacher.reverse_rationale(text) for text in true],
        }
        means: dict[str, dict[str, float]] = defaultdict(dict)
        for kind, texts in kinds.items():
            found = [
                teacher.grades_of_rationale(*pair.arguments(), text, pair.first)
                for pair, text in zip(pairs, texts, strict=True)
            ]
            for criterion in teacher.CRITERIA:
                means[kind][criterion] = mean(grade[criterion] for grade in found)
        assert set(means["true"].values()) == {5}
        for criterion in ("helpfulness", "relatedness", "correctness"):
            assert means["shuffled"][criterion] < 4
        assert means["shuffled"]["coherence"] > means["reversed"]["coherence"]
        assert means["reversed"]["correctness"] < 1.1
        assert means["reversed"]["helpfulness"] == 1


def test_rationales_of_flipped_labels_claim_nothing_false(pairs: list[Pair]) -> None:
    rng = random.Random(1)
    for pair in pairs:
        text = teacher.detailed_rationale(pair.prompt, pair.rejected, pair.chosen, rng)
        found = teacher.grades_of_rationale(pair.prompt, pair.rejected, pair.chosen, text)
        assert found["correctness"] == 5 or not claims_in(text).claims


@settings(max_examples=150, deadline=None)
@given(st.text(), st.text(), st.text(), st.booleans())
def test_any_texts_are_graded(chosen: str, rejected: str, rationale: str, first: bool) -> None:
    text = teacher.grade_text(PROMPT, chosen, rejected, rationale, first)
    found = json.loads(text)
    assert found.pop("explanation").startswith("kind ")
    assert tuple(found) == teacher.CRITERIA
    assert all(1 <= value <= 5 for value in found.values())
    rng = random.Random(0)
    for write in (teacher.general_rationale, teacher.detailed_rationale):
        assert write(PROMPT, chosen, rejected, rng, first).startswith(("Response", "I find"))
    assert teacher.pointwise_judgement(PROMPT, chosen, rng)[-10:-1] == "[RESULT] "
    assert 1 <= teacher.grade_of_judgement(PROMPT, chosen, rationale) <= 5


def test_judgements_worked_by_hand() -> None:
    rng = random.Random(4)
    text = teacher.pointwise_judgement(PROMPT, BAD, rng)
    assert text.partition(": ")[2] or text
    assert text.endswith(
        "ames saw, which does not fit: kind 4, names 4, not 3: number 3, puts heron before crow: "
        "order 2, sounds sad: tone 1, does not end with thanks: ending 1, lacks river: wording 1. "
        "[RESULT] 1"
    )
    text = teacher.pairwise_judgement(PROMPT, BAD, GOOD, rng)
    assert text.endswith(
        "ind 4 5, number 3 5, order 2 5, tone 1 5, ending 1 5, wording 1 5. [RESULT] 2"
    )


def test_judgements_are_true(pairs: list[Pair]) -> None:
    rng = random.Random(2)
    for pair in pairs:
        for response in (pair.chosen, pair.rejected):
            text = teacher.pointwise_judgement(pair.prompt, response, rng)
            assert text.endswith(f"[RESULT] {verdict(score(pair.prompt, response).overall)}")
            assert teacher.grade_of_judgement(pair.prompt, response, text) == 5
            naive = teacher.naive_judgement(3, rng)
            assert teacher.grade_of_judgement(pair.prompt, response, naive) <= 2
        for order, right in (((pair.chosen, pair.rejected), 1), ((pair.rejected, pair.chosen), 2)):
            text = teacher.pairwise_judgement(pair.prompt, *order, rng)
            assert text.endswith(f"[RESULT] {right}")


def test_flawed_judgements_get_the_grade_of_their_flaws() -> None:
    rng = random.Random(3)
    for wrong in range(len(ATTRIBUTES) + 1):
        text = teacher.flawed_judgement(PROMPT, GOOD, rng, wrong, shift=-2)
        assert teacher.grade_of_judgement(PROMPT, GOOD, text) == max(1, 3 - wrong // 2)
        again = teacher.judgement_of_judgement(PROMPT, GOOD, text, rng)
        assert f"True 5, given 3, {wrong} wrong. [RESULT] {max(1, 3 - wrong // 2)}" in again
    assert teacher.grade_of_judgement(PROMPT, GOOD, "Kind 5. No verdict.") == 1


def test_best_and_worst() -> None:
    rng = random.Random(6)
    texts = [
        teacher.flawed_judgement(PROMPT, GOOD, rng, 2),
        "I like it, it is so nice!",
        teacher.pointwise_rationale(PROMPT, GOOD, rng),
    ]
    assert teacher.best_and_worst(PROMPT, GOOD, texts) == [3, 2]
    with pytest.raises(ValueError, match="found 1 rationales"):
        teacher.best_and_worst(PROMPT, GOOD, texts[:1])


def test_naive_rationales_have_no_reason() -> None:
    rng = random.Random(7)
    for first in (True, False):
        text = teacher.naive_rationale(rng, first)
        assert claims_in(text).claims == ()
        assert f"esponse {'A' if first else 'B'}" in text


def test_foreign_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="not a tinyworld prompt"):
        teacher.general_rationale("Hello?", GOOD, BAD, random.Random(0))
