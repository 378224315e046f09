"""Reward functions by name: prompt text + response text → score and attributes.

A scorer is exact and deterministic; one that cannot score a text raises ValueError, which makes
the row a reject (`not_scorable`), never a low score. Adding one is a function and a line in
`SCORERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module


@dataclass(frozen=True)
class Scored:
    """A response's score.

    Attributes:
        overall: what policies are compared by; higher is better.
        attributes: named parts, each higher is better; may be empty.
    """

    overall: float
    attributes: dict[str, float] = field(default_factory=dict)


Scorer = Callable[[str, str], Scored]


@dataclass(frozen=True)
class Entry:
    """A scorer in the registry.

    Attributes:
        function: "module:function", imported when used.
        label: what the report calls it.
        overall_range, attribute_range: smallest and largest values, for axes.
        exact: whether its verdict is the truth of the matter (a world with known answers).
    """

    function: str
    label: str
    overall_range: tuple[float, float] | None = None
    attribute_range: tuple[float, float] | None = None
    exact: bool = False


SCORERS: dict[str, Entry] = {
    "tinyworld_rubric": Entry(
        "rayonale.evaluate.scorers:tinyworld_rubric", "exact rubric", (1, 10), (1, 5), exact=True
    ),
}


def entry(name: str) -> Entry:
    """The registry's entry of a scorer.

    Raises:
        ValueError: unknown name; the message lists the choices.
    """
    if name not in SCORERS:
        raise ValueError(f"unknown scorer {name!r}; choices: {', '.join(sorted(SCORERS))}")
    return SCORERS[name]


def get(name: str) -> Scorer:
    """The function of a scorer; ValueError for an unknown name."""
    module, _, function = entry(name).function.partition(":")
    scorer: Scorer = getattr(import_module(module), function)
    return scorer


def module_of(name: str) -> str:
    """Module that a stage's code version must include."""
    return entry(name).function.partition(":")[0]


def tinyworld_rubric(prompt: str, response: str) -> Scored:
    """tinyworld's exact rubric: overall 1–10 in halves, each attribute 1–5.

    Raises:
        ValueError: the prompt is no tinyworld request.
    """
    from rayonale.tinyworld.rubric import score

    found = score(prompt, response)
    return Scored(
        float(found.overall), {name: float(value) for name, value in found.attributes.items()}
    )
