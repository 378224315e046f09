"""MT-Bench: prompts of both kinds and turns, grades, records, the published files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rayonale.evaluate import mt_bench
from rayonale.evaluate.benchmark_files import Question, read_answers, read_questions
from rayonale.evaluate.mt_bench import (
    REFERENCED,
    judge_messages,
    pairwise_wins,
    read_grade,
    read_winner,
    scores,
)

ASKED = Question("81", "math", ("What is 2 + 2?", "And {twice} that?"))
A, B, REFERENCE = ("four-A", "eight-A"), ("five-B", "ten-B"), ("4-ref", "8-ref")


@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.parametrize("reference", [None, REFERENCE])
@pytest.mark.parametrize("answers", [[A], [A, B]])
def test_own_prompts_show_what_the_judge_needs(
    turn: int, reference: tuple[str, str] | None, answers: list[tuple[str, str]]
) -> None:
    (message,) = judge_messages(ASKED, answers, turn, reference=reference)
    text = message["content"]
    shown = [*(a[:turn] for a in answers), reference[:turn] if reference else ()]
    for part in (*ASKED.turns[:turn], *(text for turns in shown for text in turns)):
        assert part in text
    if turn == 1:
        for part in (ASKED.turns[1], A[1], B[1], REFERENCE[1]):
            assert part not in text
    if reference is None:
        assert "right answer" not in text
    if len(answers) == 1:
        assert "four-A" in text and "five-B" not in text and "[[5]]" in text
    else:
        assert text.index("four-A") < text.index("five-B") and "[[C]]" in text


def test_a_turn_that_is_not_there_is_told() -> None:
    with pytest.raises(ValueError, match="question 81: the answer 2 has no turn 2"):
        judge_messages(ASKED, [A, ("five",)], 2)
    with pytest.raises(ValueError, match="the reference has no turn 2"):
        judge_messages(ASKED, [A], 2, reference=("4",))


@pytest.mark.parametrize(
    ("text", "grade", "reason"),
    [
        ("Rating: [[7]]", 7, None),
        ("[[7.5]] and again [[7.5]]", 7.5, None),
        ("[[ 10 ]]", 10, None),
        ("[[0]]", None, "not_a_choice"),
        ("[[11]]", None, "not_a_choice"),
        ("[[3]] or [[4]]", None, "contradictory"),
        ("[7]", None, "no_marker"),
        ("", None, "empty"),
    ],
)
def test_grades(text: str, grade: float | None, reason: str | None) -> None:
    assert read_grade(text) == (grade, reason)


def test_winners() -> None:
    assert read_winner("so [[A]]") == ("A", None)
    assert read_winner("[[C]]") == ("C", None)
    assert read_winner("[[A]] … [[B]]") == (None, "contradictory")
    assert read_winner("A") == (None, "no_marker")


def graded(model: str, question: str, turn: int, score: float | None) -> dict[str, Any]:
    return {"model": model, "question_id": question, "turn": turn, "score": score}


def test_mean_grades_leave_out_what_is_unreadable() -> None:
    rows = [graded("m", "1", 1, 8), graded("m", "1", 2, 4), graded("m", "2", 1, 9),
            graded("m", "2", 2, -1), graded("m", "2", 2, None)]  # fmt: skip
    questions = [Question("1", "math", ("", "")), Question("2", "stem", ("", ""))]
    found = scores(rows, questions)["m"]
    assert found.overall == pytest.approx(7)
    assert found.by_turn == {1: 8.5, 2: 4.0}
    assert found.by_category == {"math": 6.0, "stem": 9.0}
    assert (found.graded, found.unreadable) == (3, 2)
    with pytest.raises(ValueError, match="'m': none of 1 judgments is readable"):
        scores([graded("m", "1", 1, -1)], questions)


def test_pairwise_records() -> None:
    told = [("model_1", "model_1"), ("model_1", "model_2"), ("tie", "model_2"), ("tie", "tie"),
            ("error", "model_1")]  # fmt: skip
    rows = [{"model_1": "x", "model_2": "y", "g1_winner": a, "g2_winner": b} for a, b in told]
    found = pairwise_wins(rows)
    x, y = found["x"], found["y"]
    assert (x.wins, x.losses, x.ties, x.flipped, x.unreadable) == (1, 0, 3, 1, 1)
    assert (y.wins, y.losses, y.ties) == (0, 1, 3)
    assert x.win_rate + y.win_rate == 100 and x.win_rate == 62.5
    assert x.against["y"] == 4


def test_the_published_files_and_prompts(shared_data: Path) -> None:
    folder = shared_data / "mt_bench"
    questions = read_questions(str(folder / "question.jsonl"))
    answers = read_answers(str(folder / "model_answer_5models.jsonl"))
    references = read_answers(str(folder / "reference_answer_gpt-4.jsonl"))["gpt-4"]
    published = mt_bench.read_prompts(str(folder / "judge_prompts.jsonl"))
    assert len(questions) == 80 and len(answers) == 5
    needed = {question.id for question in questions if question.category in REFERENCED}
    assert needed == set(references)
    names = set()
    for question in questions:
        reference = references.get(question.id) if question.category in REFERENCED else None
        for turn in (1, 2):
            both = [answers["gpt-4"][question.id], answers["llama-13b"][question.id]]
            for given in (both[:1], both):
                system, user = judge_messages(
                    question, given, turn, reference=reference, published=published
                )
                name = mt_bench.prompt_name("single" if len(given) == 1 else "pair", turn,
                                            reference is not None)  # fmt: skip
                names.add(name)
                assert system["content"] == published[name]["system_prompt"]
                # the published way to fill a template, worked independently of ours
                letters = "ab" if len(given) == 2 else ("",)
                values = {"question": question.turns[0], "question_1": question.turns[0],
                          "question_2": question.turns[1]}  # fmt: skip
                for letter, one in zip(letters, given, strict=True):
                    stem = f"answer_{letter}" if letter else "answer"
                    values |= {stem: one[0], f"{stem}_1": one[0], f"{stem}_2": one[1]}
                if reference:
                    values |= {"ref_answer_1": reference[0], "ref_answer_2": reference[1]}
                assert user["content"] == published[name]["prompt_template"].format(**values)
    assert names == set(published)
    with pytest.raises(ValueError, match="no judge prompt 'single-v1'; found pair-v2"):
        judge_messages(questions[0], [both[0]], 1, published={"pair-v2": published["pair-v2"]})
