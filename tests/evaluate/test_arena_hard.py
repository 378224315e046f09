"""Arena-Hard: layouts, scores of games, the leaderboard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rayonale.evaluate.arena_hard import (
    battles,
    clusters,
    games,
    leaderboard,
    read_judgments,
    read_score,
)
from rayonale.evaluate.benchmark_files import Question, read_questions
from rayonale.evaluate.bradley_terry import agreement, separability


def judgment(model: str, one: str | None, two: str | None, question: int = 0) -> dict[str, Any]:
    told = [{"score": score, "judgment": f"so [[{score}]]"} for score in (one, two)]
    return {"question_id": str(question), "model": model, "judge": "j", "games": told}


@pytest.mark.parametrize(
    ("text", "label", "reason"),
    [
        ("A is better.\n[[A>>B]]", "A>>B", None),
        ("[[ A=B ]] as I said: [[A=B]]", "A=B", None),
        ("[[A>B]] no, [[B>A]]", None, "contradictory"),
        ("[[A<B]]", None, "not_a_choice"),
        ("A>B", None, "no_marker"),
        ("", None, "empty"),
    ],
)
def test_scores_of_texts(text: str, label: str | None, reason: str | None) -> None:
    assert read_score(text) == (label, reason)


def test_games_become_battles_whoever_is_shown_first() -> None:
    found, lost = battles([judgment("m", "B>>A", "A>B")], "base")
    first, second = found
    # game 1: the baseline is A and loses strongly; game 2: the model is A and wins
    assert (first.first, first.outcome, first.weight) == ("base", 0.0, 3.0)
    assert (second.first, second.second, second.outcome, second.weight) == ("m", "base", 1.0, 1.0)
    assert lost == {}
    both, lost = battles([judgment("m", None, "A=B")], "base")
    assert [b.outcome for b in both] == [0.5]
    assert lost == {"no_marker": 1}


def test_a_judge_that_prefers_the_first_gives_fifty_percent() -> None:
    table = leaderboard([judgment("m", "A>B", "A>B", n) for n in range(40)], "base")
    assert table.ratings[0].win_rate == pytest.approx(50, abs=1e-6)


def test_the_leaderboard(tmp_path: Path) -> None:
    rows = [
        judgment(model, *(("B>A", "A>B") if n < wins else ("A>B", "B>A")), n)
        for model, wins in (("good", 80), ("fair", 50), ("poor", 10))
        for n in range(100)
    ]
    folder = tmp_path / "model_judgment"
    folder.mkdir()
    for model in ("good", "fair", "poor"):
        told = [json.dumps(row) for row in rows if row["model"] == model]
        (folder / f"{model}.jsonl").write_text("\n".join(told))
    table = leaderboard(read_judgments(str(folder)), "base")
    rates = {one.model: round(one.win_rate, 3) for one in table.ratings}
    assert rates == {"good": 80.0, "fair": 50.0, "base": 50.0, "poor": 10.0}
    assert separability(table.intervals()) == pytest.approx(5 / 6)
    assert agreement(table.intervals(), table.intervals()) == pytest.approx(5 / 6)


def test_judgments_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a judgment of the baseline 'base' itself"):
        battles([judgment("base", "A>B", "A>B")], "base")
    one = judgment("m", "A>B", "A>B")
    one["games"] = one["games"][:1]
    with pytest.raises(ValueError, match=r"question 0, 'm': 1 game\(s\); expected 2"):
        battles([one], "base")
    with pytest.raises(ValueError, match=r"no \.jsonl files"):
        read_judgments(str(tmp_path))


def test_prompts_show_the_baseline_first_and_then_the_model() -> None:
    asked = Question("1", "c", ("Write {{ a }} haiku.",))
    one, two = games(asked, "model's", "baseline's")
    assert "Write {{ a }} haiku." in one  # data is no template
    assert one.index("baseline's") < one.index("model's")
    assert two.index("model's") < two.index("baseline's")


def test_the_published_questions(shared_data: Path) -> None:
    questions = read_questions(str(shared_data / "arena_hard/question_v0.1.jsonl"))
    assert len(questions) == len({question.id for question in questions}) == 500
    assert all(len(question.turns) == 1 and question.turns[0] for question in questions)
    judged = [judgment("m", "A>B", "A>B") | {"question_id": q.id} for q in questions[:3]]
    assert sum(times for _, times in clusters(questions, judged)) == 3
    assert "ABC Sequence Puzzles & Groups" in {question.category for question in questions}
