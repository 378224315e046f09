"""Tasks of the harness as a recipe names them, and the files that they become.

{task: local/bbh, data: bbh.jsonl, each: task}
    ─► 0_date_understanding.yaml + .jsonl, 0_navigate.yaml + .jsonl …     one a value of `task`
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from rayonale import storage
from rayonale.evaluate import harness_benchmarks
from rayonale.stages import Settings

Row = dict[str, Any]

LOCAL = Path(__file__).parent / "harness_tasks"


class HarnessTask(Settings):
    """A task to run.

    Attributes:
        task: a .yaml file in the harness's layout, `local/<name>` (a file of `harness_tasks/`),
            or the name of one of the harness's own.
        benchmark: a name of `harness_benchmarks.py` instead: with `data` its local task, without
            the harness's own, with the shots that are usually reported.
        data: local lines of JSON that stand where the file says DATA; a space in a column's name
            becomes "_", so that the file's templates can name it.
        examples: the same for EXAMPLES: rows that are shown before a question.
        each: column of the data whose every value is a task of its own (BBH's 27): examples then
            come from the same one, and the mean over them is given too.
        shots: examples shown before each question; None leaves it to the benchmark or the task.
    """

    task: str | None = Field(None, min_length=1)
    benchmark: str | None = None
    data: str | None = None
    examples: str | None = None
    each: str | None = None
    shots: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _choices_fit(self) -> HarnessTask:
        if (self.task is None) == (self.benchmark is None):
            raise ValueError("expected either a task or a benchmark")
        if self.benchmark is not None:
            known = harness_benchmarks.get(self.benchmark)
            if self.data is not None and known.local is None:
                raise ValueError(
                    f"data: benchmark {self.benchmark!r} has no local task; leave data out (the "
                    "harness takes its own from the hub) or give a .yaml file as `task`"
                )
            if self.data is not None and known.examples and self.examples is None:
                raise ValueError(f"examples: missing; {self.benchmark} shows {known.shots} of them")
        if self.data is None and (self.examples or self.each):
            raise ValueError("examples and each belong to data, which is missing")
        if self.data is not None and self.file is None:
            raise ValueError(
                f"data with the harness's own task {self.named!r}, which has its own data; "
                "expected a .yaml file or local/<name>"
            )
        return self

    @property
    def named(self) -> str:
        """The task: a file, `local/<name>` or a name of the harness's."""
        if self.benchmark is None:
            return str(self.task)
        known = harness_benchmarks.get(self.benchmark)
        return known.local if self.data is not None and known.local else known.task

    @property
    def shown(self) -> int | None:
        """Its shots."""
        if self.shots is not None or self.benchmark is None:
            return self.shots
        return harness_benchmarks.get(self.benchmark).shots

    @property
    def by(self) -> str | None:
        """Column whose values are tasks of their own."""
        if self.each is not None or self.benchmark is None or self.data is None:
            return self.each
        return harness_benchmarks.get(self.benchmark).each

    @property
    def file(self) -> Path | None:
        """The task's file; None for one of the harness's own."""
        if self.named.startswith("local/"):
            return LOCAL / f"{self.named.removeprefix('local/')}.yaml"
        return Path(self.named) if self.named.endswith((".yaml", ".yml")) else None


def write_task(folder: Path, number: int, task: HarnessTask) -> list[str]:
    """What names a task for the harness: its own names, or files with DATA and EXAMPLES filled in.

    Raises:
        ValueError: a file without a place for what is given, or with a place for what is not.
    """
    if task.file is None:
        return [task.named]
    text = task.file.read_text(encoding="utf-8")
    body = "\n".join(line for line in text.split("\n") if not line.lstrip().startswith("#"))
    for word, given in (("DATA", task.data), ("EXAMPLES", task.examples)):
        if (given is None) == bool(re.search(rf"\b{word}\b", body)):
            raise ValueError(
                f"task {task.named}: "
                + (f"{word} in it is not given: expected `{word.lower()}`" if given is None
                   else f"has no {word} for `{word.lower()}` to stand for")
            )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    if task.examples is not None:
        body = _filled(body, "EXAMPLES", folder / f"{number}_examples.jsonl", _lines(task.examples))
    if task.data is None:
        return [_written(folder / f"{number}.yaml", body)]
    rows = list(_lines(task.data))
    if task.by is None:
        text = _filled(body, "DATA", folder / f"{number}.jsonl", rows)
        return [_written(folder / f"{number}.yaml", text)]
    parts: dict[str, list[Row]] = {}
    for row in rows:
        if task.by not in row:
            raise ValueError(f"{task.data}: a line without {task.by!r}: {str(row)[:120]}")
        parts.setdefault(str(row[task.by]), []).append(row)
    found = []
    for value, own in parts.items():
        name = re.sub(r"\W+", "_", value)
        text = re.sub(r"(?m)^task: *(\S+)", rf"task: \1__{name}", body)
        text = _filled(text, "DATA", folder / f"{number}_{name}.jsonl", own)
        found.append(_written(folder / f"{number}_{name}.yaml", text))
    return found


def _filled(text: str, word: str, file: Path, rows: Iterator[Row] | list[Row]) -> str:
    file.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return re.sub(rf"\b{word}\b", lambda _: str(file), text)


def _written(file: Path, text: str) -> str:
    file.write_text(text, encoding="utf-8")
    return str(file)


def _lines(uri: str) -> Iterator[Row]:
    fs, path = storage.filesystem(uri)
    for number, line in enumerate(fs.cat_file(path).decode().split("\n"), 1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{uri}:{number}: not JSON ({error})") from error
        yield {key.replace(" ", "_"): value for key, value in told.items()}
