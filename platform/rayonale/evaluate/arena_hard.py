"""Arena-Hard over local files: every model against one baseline, in both orders, rated.

    question.jsonl ─┐                                   score "[[A>>B]]" … "[[B>>A]]" of two games
    answers of models ─ prompts ─ judge ─► judgments ─► battles ─► bradley_terry.py ─► leaderboard

Layouts are those of the published repository (lm-arena/arena-hard-auto, v0.1): a question is
{"question_id", "cluster", "turns": [{"content"}]}, an answer {"question_id", "model_id", "choices":
[{"turns": [{"content"}]}]}, a judgment {"question_id", "model", "judge", "games": [{"score",
"judgment", "user_prompt"}, …]}: in the first game the baseline is A, in the second the model is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayonale import prompts
from rayonale.evaluate.benchmark_files import Question, files, read_lines
from rayonale.evaluate.bradley_terry import Battle, Rating, ratings

Row = dict[str, Any]

TEMPLATE = "arena_hard_pairwise"
VARIABLES = frozenset({"question", "answer_a", "answer_b"})

# What a game's score says of A, and whether it is a strong verdict.
SCORES: Mapping[str, tuple[float, bool]] = {
    "A>>B": (1.0, True),
    "A>B": (1.0, False),
    "A=B": (0.5, False),
    "B>A": (0.0, False),
    "B>>A": (0.0, True),
}
STRONG = 3.0  # plain battles that a strong verdict counts for, as published
_SCORE = re.compile(r"\[\[\s*([AB<>=]+)\s*\]\]")


@dataclass(frozen=True)
class Leaderboard:
    """Ratings and what they rest on.

    Attributes:
        ratings: best first, the baseline (win rate 50 %) among them.
        unreadable: games without a verdict by reason; they are left out, not made ties.
    """

    ratings: list[Rating]
    unreadable: dict[str, int] = field(default_factory=dict)

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Model → its win rate's interval, for `separability` and `agreement`."""
        return {one.model: (one.win_low, one.win_high) for one in self.ratings}


def games(
    question: Question, answer: str, baseline: str, template: str = TEMPLATE
) -> tuple[str, str]:
    """Prompts of both games: the baseline as A, then the model as A."""
    (asked,) = question.turns
    return (
        prompts.render(template, question=asked, answer_a=baseline, answer_b=answer),
        prompts.render(template, question=asked, answer_a=answer, answer_b=baseline),
    )


def read_score(text: str) -> tuple[str | None, str | None]:
    """(label of `SCORES`, None) or (None, reason) of a judge's text.

    Equal labels may come several times; different ones contradict each other.
    """
    found = set(_SCORE.findall(text or ""))
    if not found:
        return None, "no_marker" if text else "empty"
    if len(found) > 1:
        return None, "contradictory"
    label = found.pop()
    return (label, None) if label in SCORES else (None, "not_a_choice")


def read_judgments(uri: str) -> list[Row]:
    """Judgments of a file or of a folder's files (one a model)."""
    needed = ("question_id", "model", "games")
    return [row for file in files(uri) for _, row in read_lines(file, needed)]


def battles(
    judgments: Iterable[Row], baseline: str, *, strong: float = STRONG
) -> tuple[list[Battle], dict[str, int]]:
    """Battles of judgments, and counts of the games that have none by reason.

    Args:
        strong: plain battles that ">>" counts for.

    Raises:
        ValueError: a judgment of the baseline itself, or with another number of games than two.
    """
    found: list[Battle] = []
    lost: Counter[str] = Counter()
    for row in judgments:
        model, question = row["model"], row["question_id"]
        if model == baseline:
            raise ValueError(f"question {question}: a judgment of the baseline {baseline!r} itself")
        if len(row["games"]) != 2:
            raise ValueError(
                f"question {question}, {model!r}: {len(row['games'])} game(s); expected 2, one "
                "in each order"
            )
        for order, game in enumerate(row["games"]):
            label = game.get("score")
            if label not in SCORES:
                _, reason = read_score(game.get("judgment", ""))
                lost[reason or "no_score"] += 1
                continue
            told, is_strong = SCORES[label]
            first, second = (baseline, model) if order == 0 else (model, baseline)
            found.append(Battle(question, first, second, told, strong if is_strong else 1.0))
    return found, dict(lost)


def leaderboard(
    judgments: Sequence[Row],
    baseline: str,
    *,
    strong: float = STRONG,
    rounds: int = 100,
    seed: int = 0,
    resample: str = "unit",
) -> Leaderboard:
    """Ratings of all judged models against the baseline; see `bradley_terry.ratings`."""
    found, lost = battles(judgments, baseline, strong=strong)
    table = ratings(found, baseline, rounds=rounds, seed=seed, resample=resample)
    return Leaderboard(table, lost)


def clusters(questions: Iterable[Question], judgments: Sequence[Row]) -> Iterator[tuple[str, int]]:
    """(cluster, judged questions in it), the largest first."""
    known = {question.id: question.category for question in questions}
    judged = {str(row["question_id"]) for row in judgments}
    yield from Counter(known.get(one, "unknown") for one in judged).most_common()
