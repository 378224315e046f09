"""The stream of tasks that the base model learns: every prompt and answer of tinyworld.

    index ─ request ─ responses ─┬─ respond            16 %   (some with a system prompt)
                                 ├─ rationale_general  12 %
                                 ├─ rationale_detailed 12 %
                                 ├─ grade_rationale    18 %
                                 ├─ judge_pointwise    14 %
                                 ├─ judge_pairwise     16 %
                                 ├─ grade_judgement     6 %
                                 └─ pick_rationale      6 %

Example `index` of a seed is the same whatever was drawn before it. Goals in system
prompts say nothing about the response here: to follow them is left to be learnt.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Final

from rayonale.prompts import render as render_template
from rayonale.tinyworld.grading import grade_text
from rayonale.tinyworld.judgements import (
    RUBRIC,
    best_and_worst,
    flawed_judgement,
    judgement_of_judgement,
    naive_judgement,
    pairwise_judgement,
    pointwise_judgement,
    untrue_checks,
)
from rayonale.tinyworld.rationales import (
    detailed_rationale,
    general_rationale,
    naive_rationale,
    reverse_rationale,
)
from rayonale.tinyworld.requests import PHRASINGS, Request, render, sample_request
from rayonale.tinyworld.responses import write_response
from rayonale.tinyworld.rubric import score
from rayonale.tinyworld.vocabulary import ATTRIBUTES

# The first examples are of the two tasks that the others build on.
EARLY_EXAMPLES: Final = 12_000

SYSTEM_PROMPTS: Final = ("You are a helpful assistant.", "Answer the request as well as you can.")


@dataclass(frozen=True)
class Example:
    """One turn: task name, system text or None, user text, and the answer to learn.

    `prompt` is the request that the responses in `shown` answer; each of them is found in
    the user text, in this order, or is the answer.
    """

    task: str
    system: str | None
    user: str
    answer: str
    prompt: str
    shown: tuple[str, ...]


@dataclass(frozen=True)
class _Draw:
    rng: random.Random
    request: Request
    prompt: str
    varied: bool = False

    def response(self, quality: float | None = None) -> str:
        return write_response(self.request, self.rng, quality)

    def pair(self, flip: float = 0.0) -> tuple[str, str, bool]:
        """Chosen, rejected (of unequal score) and whether the chosen one is shown first.

        With chance `flip` the worse response is the chosen one.
        """
        while True:
            first, second = self.response(), self.response()
            gap = score(self.prompt, first).overall - score(self.prompt, second).overall
            if gap:
                better_first = (gap > 0) != (self.rng.random() < flip)
                pair = (first, second) if better_first else (second, first)
                return (*pair, self.rng.random() < 0.5)


def example(seed: int, index: int, early: int = EARLY_EXAMPLES, late: int | None = None) -> Example:
    """The example with this index in the stream of this seed.

    The first `early` examples are of two tasks only. Before `late` (None: everywhere) rationales
    are varied in form; from there on they begin with the chosen response, and more of the
    examples are rationales and grades.
    """
    rng = random.Random(f"tinyworld tasks {seed} {index}")
    is_late = late is not None and index >= late
    shares = _EARLY if index < early else {name: s for name, (s, _) in _TASKS.items()}
    shares = _LATE if is_late else shares
    (task,) = rng.choices(tuple(shares), tuple(shares.values()))
    request = sample_request(rng)
    draw = _Draw(rng, request, render(request, rng.randrange(len(PHRASINGS))), not is_late)
    system, user, answer, *shown = _TASKS[task][1](draw)
    return Example(task, system, user, answer, draw.prompt, tuple(map(str, shown)))


def stream(seed: int, start: int = 0, early: int = EARLY_EXAMPLES) -> Iterator[Example]:
    """Examples of a seed without end, from index `start` on."""
    return (example(seed, index, early) for index in count(start))


# System text, user text, answer, then every response that is scored.
_Parts = tuple[str | None, str, str, *tuple[str, ...]]


def _respond(draw: _Draw) -> _Parts:
    rng = draw.rng
    system = None
    kind = rng.random()
    if kind < 0.08:
        system = render_template("tinyworld/goal_system", goal=rng.randint(1, 10), high=10)
    elif kind < 0.12:
        names = [name for name in ATTRIBUTES if rng.random() < 0.6] or ["tone"]
        goals = {name: rng.randint(1, 5) for name in names}
        system = render_template("tinyworld/attributes_system", goals=goals, high=5)
    elif kind < 0.17:
        system = rng.choice(SYSTEM_PROMPTS)
    response = draw.response()
    return system, draw.prompt, response, response


def _rationale(draw: _Draw, name: str, write: Callable[..., str]) -> _Parts:
    chosen, rejected, first = draw.pair(flip=0.08)
    user = render_template(
        f"tinyworld/{name}",
        prompt=draw.prompt, chosen=chosen, rejected=rejected, chosen_first=first,
    )  # fmt: skip
    answer = write(draw.prompt, chosen, rejected, draw.rng, first, varied=draw.varied)
    return None, user, answer, *_placed(chosen, rejected, first)


def _general(draw: _Draw) -> _Parts:
    return _rationale(draw, "rationale_general", general_rationale)


def _detailed(draw: _Draw) -> _Parts:
    return _rationale(draw, "rationale_detailed", detailed_rationale)


def _grade(draw: _Draw) -> _Parts:
    chosen, rejected, first = draw.pair(flip=0.08)
    text = _rationale_to_grade(draw, chosen, rejected, first)
    user = render_template(
        "tinyworld/grade_rationale",
        prompt=draw.prompt, chosen=chosen, rejected=rejected, rationale=text, chosen_first=first,
    )  # fmt: skip
    answer = grade_text(draw.prompt, chosen, rejected, text, first)
    return None, user, answer, *_placed(chosen, rejected, first)


def _placed(chosen: str, rejected: str, first: bool) -> tuple[str, str]:
    return (chosen, rejected) if first else (rejected, chosen)


def _rationale_to_grade(draw: _Draw, chosen: str, rejected: str, first: bool) -> str:
    """A true rationale, or one that is partly true, reversed, of another pair, or naive."""
    rng = draw.rng
    write = rng.choice((general_rationale, detailed_rationale))
    control = rng.random()
    if control < 0.4:
        return write(draw.prompt, chosen, rejected, rng, first, varied=draw.varied)
    if control < 0.55:
        return write(draw.prompt, chosen, draw.response(), rng, first, varied=draw.varied)
    if control < 0.72:
        text = write(draw.prompt, chosen, rejected, rng, first, varied=draw.varied)
        return reverse_rationale(text)
    if control < 0.94:
        request = sample_request(rng)
        other = _Draw(rng, request, render(request))
        pair = other.pair()[:2]
        return write(other.prompt, *pair, rng, rng.random() < 0.5, varied=draw.varied)
    return naive_rationale(rng, first)


def _pointwise(draw: _Draw) -> _Parts:
    response = draw.response()
    user = render_template(
        "tinyworld/judge_pointwise",
        prompt=draw.prompt,
        response=response,
        reference=draw.response(1.0) if draw.rng.random() < 0.15 else None,
        rubric=RUBRIC if draw.rng.random() < 0.1 else None,
    )
    return None, user, pointwise_judgement(draw.prompt, response, draw.rng), response


def _pairwise(draw: _Draw) -> _Parts:
    first, second, _ = draw.pair()
    if draw.rng.random() < 0.5:
        first, second = second, first
    user = render_template(
        "tinyworld/judge_pairwise", prompt=draw.prompt, response_1=first, response_2=second
    )
    return None, user, pairwise_judgement(draw.prompt, first, second, draw.rng), first, second


def _grade_judgement(draw: _Draw) -> _Parts:
    rng, response = draw.rng, draw.response()
    if rng.random() < 0.1:
        text = naive_judgement(rng.randint(1, 5), rng)
    else:
        wrong, shift = rng.choice((0, 0, 1, 2, 3, 4)), rng.choice((0, 0, 0, -1, 1, -2, 2))
        text = flawed_judgement(draw.prompt, response, rng, wrong, shift)
    user = render_template(
        "tinyworld/grade_judgement", prompt=draw.prompt, response=response, judgement=text
    )
    return None, user, judgement_of_judgement(draw.prompt, response, text, rng), response


def _pick(draw: _Draw) -> _Parts:
    rng, response = draw.rng, draw.response()
    while True:
        wrongs = [rng.randint(0, 5) for _ in range(rng.randint(2, 4))]
        texts = [flawed_judgement(draw.prompt, response, rng, wrong) for wrong in wrongs]
        if rng.random() < 0.2:
            texts[rng.randrange(len(texts))] = naive_judgement(3, rng)
        texts = [text.partition(" [RESULT]")[0] for text in texts]
        faults = [untrue_checks(draw.prompt, response, text) for text in texts]
        if faults.count(min(faults)) == 1 == faults.count(max(faults)):
            break
    user = render_template(
        "tinyworld/pick_rationale", prompt=draw.prompt, response=response, rationales=texts
    )
    return None, user, str(best_and_worst(draw.prompt, response, texts)), response


_TASKS: Final[dict[str, tuple[float, Callable[[_Draw], _Parts]]]] = {
    "respond": (0.16, _respond),
    "rationale_general": (0.12, _general),
    "rationale_detailed": (0.12, _detailed),
    "grade_rationale": (0.18, _grade),
    "judge_pointwise": (0.14, _pointwise),
    "judge_pairwise": (0.16, _pairwise),
    "grade_judgement": (0.06, _grade_judgement),
    "pick_rationale": (0.06, _pick),
}
_LATE: Final[dict[str, float]] = {
    "respond": 0.12,
    "rationale_general": 0.17,
    "rationale_detailed": 0.22,
    "grade_rationale": 0.23,
    "judge_pointwise": 0.08,
    "judge_pairwise": 0.10,
    "grade_judgement": 0.04,
    "pick_rationale": 0.04,
}
_EARLY: Final[dict[str, float]] = {"respond": 0.35, "judge_pointwise": 0.65}
