"""The benchmarks that papers on alignment report, by name, with the shots that they report.

    {benchmark: gsm8k, data: test.jsonl, examples: train.jsonl}     offline, over local files
    {benchmark: arc}                                                the harness's own task

The shots are those of methods that report all of them (GSM8K 8 with chain of thought, BBH 3, ARC
25, the others 0); BBH, GPQA and MuSR are the harness's `leaderboard_…` groups, which is where
their multiple-choice forms come from. TriviaQA is closed book, by exact match.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Benchmark:
    """How a benchmark is run.

    Attributes:
        task: name of the harness's own task or group.
        shots: examples before each question.
        local: name of the task file for local data; None where there is none.
        each: column of the local data whose values are tasks of their own.
        examples: whether the local task takes its examples from a file of their own.
    """

    task: str
    shots: int
    local: str | None = None
    each: str | None = None
    examples: bool = False


BENCHMARKS: dict[str, Benchmark] = {
    "gsm8k": Benchmark("gsm8k_cot", 8, "local/gsm8k_cot", examples=True),
    "bbh": Benchmark("leaderboard_bbh", 3, "local/bbh", each="task"),
    "arc": Benchmark("arc_challenge", 25),
    "truthfulqa": Benchmark("truthfulqa_mc2", 0, "local/truthfulqa_mc2"),
    "gpqa": Benchmark("leaderboard_gpqa", 0),
    "musr": Benchmark("leaderboard_musr", 0),
    "triviaqa": Benchmark("triviaqa", 0),
}


def get(name: str) -> Benchmark:
    """A benchmark by name.

    Raises:
        ValueError: unknown name; the message lists the choices.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {name!r}; choices: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]
