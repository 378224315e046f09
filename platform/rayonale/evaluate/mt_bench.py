"""MT-Bench over local files: two-turn answers, graded alone or in pairs, with references.

    question.jsonl ─┐
    answers ────────┼─ judge's prompt (single or pair, turn 1 or 2) ─► judgments ─► scores, wins
    references ─────┘

Layouts are FastChat's: a question {"question_id", "category", "turns", "reference"?}, an answer
{"question_id", "model_id", "choices": [{"turns": […]}]}, references are answers of one model, a
judgment {"question_id", "model", "turn", "score", "judgment"} or {…, "model_1", "model_2",
"g1_winner", "g2_winner", "turn"} (arXiv 2306.05685). Prompts are the project's own, or those of a
file in FastChat's layout (`read_prompts`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayonale import prompts as own_prompts
from rayonale.evaluate.benchmark_files import Question, read_lines
from rayonale.records import Message

Row = dict[str, Any]

# Categories whose judge is shown a reference answer.
REFERENCED = frozenset({"math", "reasoning", "coding"})
TEMPLATES = {"single": "mt_bench_single", "pair": "mt_bench_pair"}
# Lists, one element a turn; of answers one of such lists for each.
VARIABLES = frozenset({"questions", "answers", "references"})

_RATING = re.compile(r"\[\[\s*(\d+(?:\.\d+)?)\s*\]\]")
_WINNER = re.compile(r"\[\[\s*([ABC])\s*\]\]")
WINNERS = {"A": 1.0, "B": 0.0, "C": 0.5}  # what a verdict says of A


@dataclass(frozen=True)
class Scores:
    """Mean grades, 1 … 10.

    Attributes:
        overall: over both turns of all questions, as published.
        by_turn, by_category: the same for a part.
        graded: judgments that they rest on; unreadable: those left out.
    """

    overall: float
    by_turn: dict[int, float]
    by_category: dict[str, float]
    graded: int
    unreadable: int


@dataclass
class Wins:
    """A model's pairwise record; a pair of games that disagree is a tie."""

    wins: int = 0
    losses: int = 0
    ties: int = 0
    flipped: int = 0
    unreadable: int = 0
    against: Counter[str] = field(default_factory=Counter)

    @property
    def win_rate(self) -> float:
        """Share of wins, a tie counting half, in percent."""
        return 100 * (self.wins + 0.5 * self.ties) / max(1, self.wins + self.losses + self.ties)


def read_prompts(uri: str) -> dict[str, Row]:
    """Judge prompts in FastChat's layout, by name."""
    needed = ("name", "system_prompt", "prompt_template")
    return {row["name"]: row for _, row in read_lines(uri, needed)}


def judge_messages(
    question: Question,
    answers: Sequence[Sequence[str]],
    turn: int,
    *,
    reference: Sequence[str] | None = None,
    published: Mapping[str, Row] | None = None,
    template: str | None = None,
) -> list[Message]:
    """What a judge is asked about one answer (a grade) or about two (the better one).

    Args:
        answers: turns of one answer, or of A's and B's.
        turn: 1, or 2: the judge sees both turns and judges the second.
        reference: turns of a right answer; None where the question's category has none.
        published: prompts in FastChat's layout, in place of the project's own.
        template: of the project's kind (`VARIABLES`), in place of the project's own.

    Raises:
        ValueError: an answer, a question or a reference without that turn.
    """
    given = {"question": question.turns, "reference": reference or question.turns}
    for what, turns in {**given, **{f"answer {n}": a for n, a in enumerate(answers, 1)}}.items():
        if len(turns) < turn:
            raise ValueError(f"question {question.id}: the {what} has no turn {turn}")
    kind = "single" if len(answers) == 1 else "pair"
    if published is None:
        text = own_prompts.render(
            template or TEMPLATES[kind],
            questions=list(question.turns[:turn]),
            answers=[list(one[:turn]) for one in answers],
            references=list(reference[:turn]) if reference else [],
        )
        return [Message(role="user", content=text)]
    name = prompt_name(kind, turn, reference is not None)
    if name not in published:
        raise ValueError(f"no judge prompt {name!r}; found {', '.join(sorted(published))}")
    asked = published[name]
    text = _fill(asked["prompt_template"], _values(question, answers, reference), name)
    return [
        Message(role="system", content=asked["system_prompt"]),
        Message(role="user", content=text),
    ]


def _values(
    question: Question, answers: Sequence[Sequence[str]], reference: Sequence[str] | None
) -> dict[str, str]:
    """What FastChat's templates may ask for."""
    values: dict[str, str] = {"question": question.turns[0]}
    values |= {f"question_{n}": text for n, text in enumerate(question.turns, 1)}
    values |= {f"ref_answer_{n}": text for n, text in enumerate(reference or (), 1)}
    stems = ("answer",) if len(answers) == 1 else ("answer_a", "answer_b")
    for stem, turns in zip(stems, answers, strict=True):
        values[stem] = turns[0]
        values |= {f"{stem}_{n}": text for n, text in enumerate(turns, 1)}
    return values


def prompt_name(kind: str, turn: int, referenced: bool) -> str:
    """FastChat's name of a judge prompt: `single-v1`, `pair-math-v1-multi-turn` …"""
    base = {"single": "single-v1", "pair": "pair-v2"}[kind]
    if referenced:
        base = f"{kind}-math-v1"
    return base + ("-multi-turn" if turn > 1 else "")


def _fill(template: str, values: Mapping[str, str], name: str) -> str:
    """A template's {names} replaced in one pass: braces in the values stay as they are."""

    def value(found: re.Match[str]) -> str:
        if found[1] not in values:
            raise ValueError(f"judge prompt {name!r}: nothing known for {{{found[1]}}}")
        return values[found[1]]

    return re.sub(r"\{([a-z_0-9]+)\}", value, template)


def read_grade(text: str) -> tuple[float | None, str | None]:
    """(grade 1 … 10, None) or (None, reason); grades that differ contradict each other."""
    told = {float(found) for found in _RATING.findall(text or "")}
    if not told:
        return None, "no_marker" if text else "empty"
    if len(told) > 1:
        return None, "contradictory"
    grade = told.pop()
    return (grade, None) if 1 <= grade <= 10 else (None, "not_a_choice")


def read_winner(text: str) -> tuple[str | None, str | None]:
    """("A", "B" or "C" for a tie, None) or (None, reason)."""
    told = set(_WINNER.findall(text or ""))
    if not told:
        return None, "no_marker" if text else "empty"
    return (told.pop(), None) if len(told) == 1 else (None, "contradictory")


def scores(judgments: Iterable[Row], questions: Sequence[Question]) -> dict[str, Scores]:
    """Mean grades of each model; an unreadable judgment (score −1 or null) is left out.

    Raises:
        ValueError: a model without a readable judgment.
    """
    category = {question.id: question.category for question in questions}
    grouped: dict[str, list[Row]] = {}
    for row in judgments:
        grouped.setdefault(row["model"], []).append(row)
    found = {}
    for model, rows in grouped.items():
        told = [row for row in rows if row["score"] is not None and row["score"] != -1]
        if not told:
            raise ValueError(f"{model!r}: none of {len(rows)} judgments is readable")
        by_turn: dict[int, list[float]] = {}
        by_category: dict[str, list[float]] = {}
        for row in told:
            by_turn.setdefault(int(row["turn"]), []).append(row["score"])
            part = category.get(str(row["question_id"]), "unknown")
            by_category.setdefault(part, []).append(row["score"])
        found[model] = Scores(
            _mean([row["score"] for row in told]),
            {turn: _mean(by_turn[turn]) for turn in sorted(by_turn)},
            {part: _mean(values) for part, values in by_category.items()},
            len(told),
            len(rows) - len(told),
        )
    return found


def pairwise_wins(judgments: Iterable[Row]) -> dict[str, Wins]:
    """Record of each model over pairwise judgments (both orders; winners named `model_1` …)."""
    found: dict[str, Wins] = {}
    for row in judgments:
        pair = (row["model_1"], row["model_2"])
        one, two = (found.setdefault(model, Wins()) for model in pair)
        told = (row["g1_winner"], row["g2_winner"])
        if not set(told) <= {"model_1", "model_2", "tie"}:
            one.unreadable += 1
            two.unreadable += 1
            continue
        one.against[pair[1]] += 1
        two.against[pair[0]] += 1
        if told[0] != told[1] or told[0] == "tie":
            one.ties += 1
            two.ties += 1
            flipped = set(told) == {"model_1", "model_2"}
            one.flipped += flipped
            two.flipped += flipped
        else:
            winner, loser = (one, two) if told[0] == "model_1" else (two, one)
            winner.wins += 1
            loser.losses += 1
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
