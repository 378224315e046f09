"""Numbers that the user gives where nothing here can know them: `--assume KEY=VALUE`.

pairs.rows=61135  pairs.prompt_tokens=180  rationales.tokens=250  graded.keep=0.9
peak_tflops=989   mfu=0.4                  generation_mfu=0.1
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rayonale.recipe import near

OF_STAGES = {
    "rows": "records of an ingest stage's sources",
    "rows_train": "rows of that split",
    "rows_validation": "rows of that split",
    "rows_test": "rows of that split",
    "prompt_tokens": "mean tokens of a prompt",
    "chosen_tokens": "mean tokens of a chosen response",
    "rejected_tokens": "mean tokens of a rejected response",
    "response_tokens": "mean tokens of a labelled or judged row's response",
    "judgement_tokens": "mean tokens of a judgement that comes with the data",
    "responses": "responses that a judged row has, 1 or 2",
    "tokens": "mean tokens that a completion has",
    "keep": "share of the rows that go on",
    "tokens_per_second": "of each device",
    "start_seconds": "until engines or workers are ready",
    "seconds": "the whole stage, for kinds that have no estimate",
}
OF_ALL = {
    "generate_tokens_per_second": "generated, by each device",
    "train_tokens_per_second": "forward and backward, by each device",
    "forward_tokens_per_second": "forward only, by each device",
    "peak_tflops": "10¹² FLOP/s of a device",
    "mfu": "share of the peak in training and scoring",
    "generation_mfu": "share of the peak in generation",
    "engine_start_seconds": "until an engine is ready",
    "train_start_seconds": "until training workers are ready, and their export",
}
_SHARES = ("keep", "mfu", "generation_mfu")


@dataclass(frozen=True)
class Given:
    """Key → number."""

    values: Mapping[str, float] = field(default_factory=dict)

    def of(self, stage: str, name: str) -> float | None:
        """A stage's number."""
        return self.values.get(f"{stage}.{name}")

    def get(self, name: str) -> float | None:
        """A number for all stages."""
        return self.values.get(name)


def parse(assignments: Iterable[str], stages: Iterable[str]) -> Given:
    """Read `KEY=VALUE` assignments.

    Raises:
        ValueError: every one that is wrong, with the choices.
    """
    names, problems = list(stages), []
    values: dict[str, float] = {}
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        problem = _problem(key, sign, text, names)
        if problem:
            problems.append(f"--assume {assignment}: {problem}")
        else:
            values[key] = float(text)
    if problems:
        raise ValueError("\n".join(problems))
    return Given(values)


def _problem(key: str, sign: str, text: str, stages: list[str]) -> str | None:
    if not sign:
        return "expected KEY=VALUE"
    stage, dot, name = key.rpartition(".")
    choices = OF_STAGES if dot else OF_ALL
    if dot and stage not in stages:
        return f"no stage {stage!r}{near(stage, stages)}; stages: {', '.join(stages)}"
    if name not in choices:
        told = ", ".join(f"{'<stage>.' if dot else ''}{choice}" for choice in choices)
        return f"unknown key{near(name, list(choices))}; choices: {told}"
    try:
        value = float(text)
    except ValueError:
        return f"found {text!r}, expected a number"
    if not math.isfinite(value) or value < 0 or (name in _SHARES and not 0 < value <= 1):
        expected = "a share above 0, at most 1" if name in _SHARES else "a number of 0 or more"
        return f"found {text}, expected {expected}"
    return None
