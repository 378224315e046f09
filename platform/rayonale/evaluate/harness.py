"""The `harness` stage: lm-evaluation-harness, run for real through vLLM, on local or its own tasks.

    task .yaml + data ─► work/tasks ─► harness_process.py (own process, vLLM) ─► work/results
                                          └─ rows/: one a sample;  metrics: task × metric

The harness is no part of the locks: `requirements/harness.txt` says what to install and how. A
local task is a file in the harness's layout with DATA in the place of its data file, which the
stage fills in: a user's own, or one of `harness_tasks/` (`local/gsm8k` …). A task of the harness
is given by its name there and needs what it needs (mostly the network).
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
from pydantic import Field, model_validator

import rayonale
from rayonale import models, storage
from rayonale.generate.engine import engine_arguments, on_gpu
from rayonale.generate.settings import EngineOptions
from rayonale.lineage import fingerprints
from rayonale.stages import Reads, Settings, Stage, StageContext, StageResult

log = logging.getLogger("rayonale")

Row = dict[str, Any]

_LOCAL = Path(__file__).parent / "harness_tasks"
INSTALL = "pip install --no-deps --target {} -r requirements/harness.txt"
ROWS = pa.schema(
    [
        ("id", pa.string()),  # <task>/<filter>/<document>
        ("task", pa.string()),
        ("filter", pa.string()),
        ("target", pa.string()),
        ("response", pa.string()),
        ("metrics", pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())]))),
    ]
)


class HarnessTask(Settings):
    """A task to run.

    Attributes:
        task: a .yaml file in the harness's layout, `local/<name>` (a file of `harness_tasks/`),
            or the name of one of the harness's own.
        data: local lines of JSON that stand where the file says DATA; a space in a column's name
            becomes "_", so that the file's templates can name it.
    """

    task: str = Field(min_length=1)
    data: str | None = None

    @property
    def file(self) -> Path | None:
        """The task's file; None for one of the harness's own."""
        if self.task.startswith("local/"):
            return _LOCAL / f"{self.task.removeprefix('local/')}.yaml"
        return Path(self.task) if self.task.endswith((".yaml", ".yml")) else None

    @model_validator(mode="after")
    def _data_is_used(self) -> HarnessTask:
        if self.data is not None and self.file is None:
            raise ValueError(
                f"data with the harness's own task {self.task!r}, which has its own data; "
                "expected a .yaml file or local/<name>"
            )
        return self


class HarnessSettings(Settings):
    """Settings of the `harness` stage.

    Attributes:
        model: what is measured, when no stage is read in the role `model`.
        tasks: run in one process, one engine for all.
        shots: examples shown before each question; None leaves it to the task.
        limit: at most so many documents of a task; None takes all.
        chat: render each question as a user's turn of the model's chat template.
        engine: how the model is run (one replica).
        packages: folder that the harness is installed in.
        timeout_s: seconds that the process may take.
    """

    model: str = "tinyworld"
    tasks: tuple[HarnessTask, ...] = Field(min_length=1)
    shots: int | None = Field(None, ge=0)
    limit: int | None = Field(None, ge=1)
    chat: bool = False
    engine: EngineOptions = EngineOptions()
    packages: str = ".harness"
    timeout_s: float = Field(86_400, gt=0)

    @model_validator(mode="after")
    def _engine_is_used(self) -> HarnessSettings:
        ignored = {"replicas": 1, "chat_template": None, "threads": None}
        for name, default in ignored.items():
            if getattr(self.engine, name) != default:
                raise ValueError(f"engine.{name}: the harness runs its own engine and ignores it")
        return self


def run(context: StageContext, settings: HarnessSettings) -> StageResult:
    """Run the harness over the tasks.

    Raises:
        ValueError: the harness is not installed, failed, or measured nothing; with its last words.
    """
    packages = Path(settings.packages).resolve()
    if not (packages / "lm_eval").is_dir():
        raise ValueError(
            f"packages {settings.packages!r}: no lm_eval there; install it with: "
            f"{INSTALL.format(settings.packages)}"
        )
    read = context.inputs.get("model")
    model = models.resolve(settings.model if read is None else read.model)
    with TemporaryDirectory(prefix="harness-") as place:
        folder = Path(place)
        names = [_write_task(folder / "tasks", n, task) for n, task in enumerate(settings.tasks)]
        command = arguments(model, names, str(folder / "results"), settings)
        log.info("%s: lm-evaluation-harness over %d task(s)", context.name, len(names))
        _call(command, packages, folder, settings.timeout_s)
        results, rows = read_results(folder / "results")
    if not rows:
        raise ValueError(f"{context.name}: the harness gave no samples of {', '.join(names)}")
    written = storage.write_rows(storage.join(context.out, storage.ROWS), iter(rows), ROWS)
    return StageResult(
        rows_in=written,
        rows_out=written,
        metrics=metrics_of(results),
        details={"harness": {"version": results.get("lm_eval_version"), "model": model,
                             "results": results["results"], "shots": results.get("n-shot"),
                             "versions": results.get("versions")}},
    )  # fmt: skip


def arguments(model: str, tasks: list[str], out: str, settings: HarnessSettings) -> list[str]:
    """The harness's command line."""
    engine = engine_arguments(model, settings.engine, on_gpu())
    engine.pop("model")
    given = {"pretrained": model, **engine}
    command = ["run", "--model", "vllm", "--model_args", json.dumps(given)]
    command += ["--tasks", ",".join(tasks), "--output_path", out, "--log_samples"]
    command += ["--batch_size", "auto"]
    if settings.shots is not None:
        command += ["--num_fewshot", str(settings.shots)]
    if settings.limit is not None:
        command += ["--limit", str(settings.limit)]
    return [*command, "--apply_chat_template"] if settings.chat else command


def _write_task(folder: Path, number: int, task: HarnessTask) -> str:
    """What names a task on the command line; a file's DATA is filled in."""
    if task.file is None:
        return task.task
    text = task.file.read_text(encoding="utf-8")
    if (task.data is None) == ("DATA" in text):
        raise ValueError(
            f"task {task.task}: "
            + ("DATA in it is not given: expected `data`" if task.data is None
               else "has no DATA for `data` to stand for")
        )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    if task.data is not None:
        copy = folder / f"{number}.jsonl"
        copy.write_text("".join(_lines(task.data)), encoding="utf-8")
        text = re.sub(r"\bDATA\b", lambda _: str(copy), text)
    file = folder / f"{number}.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def _lines(uri: str) -> Iterator[str]:
    fs, path = storage.filesystem(uri)
    for line in fs.cat_file(path).decode().split("\n"):
        if line.strip():
            row = {key.replace(" ", "_"): value for key, value in json.loads(line).items()}
            yield json.dumps(row, ensure_ascii=False) + "\n"


def _call(command: list[str], packages: Path, folder: Path, timeout: float) -> None:
    source = str(Path(rayonale.__file__).resolve().parent.parent)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([source, str(packages)]),
        "HF_HOME": os.environ.get("HF_HOME", str(folder / "cache")),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1" if on_gpu() else "0",
    }
    whole = [sys.executable, "-m", "rayonale.evaluate.harness_process", *command]
    output = folder / "output.txt"
    with output.open("wb") as handle:
        try:
            done = subprocess.run(
                whole, env=environment, stdout=handle, stderr=subprocess.STDOUT, timeout=timeout,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"the harness took more than timeout_s = {timeout:.0f} s") from error
    if done.returncode:
        told = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-15:]
        raise ValueError(f"the harness ended with {done.returncode}:\n" + "\n".join(told))


def read_results(folder: Path) -> tuple[Row, list[Row]]:
    """The results that the harness wrote, and a row for each sample.

    Raises:
        ValueError: no results, or those of several runs.
    """
    files = sorted(folder.rglob("results_*.json"))
    if len(files) != 1:
        raise ValueError(f"{folder}: {len(files)} results files of the harness; expected one")
    results = json.loads(files[0].read_text(encoding="utf-8"))
    rows = []
    for file in sorted(folder.rglob("samples_*.jsonl")):
        task = re.sub(r"^samples_(.+)_[0-9T:.\-]+\.jsonl$", r"\1", file.name)
        for line in file.read_text(encoding="utf-8").split("\n"):
            if line.strip():
                rows.append(_row(task, json.loads(line)))
    return results, rows


def _row(task: str, sample: Mapping[str, Any]) -> Row:
    given = sample.get("filtered_resps")
    response = given[0] if isinstance(given, list) and len(given) == 1 else given
    names = sample.get("metrics", [])
    return {
        "id": f"{task}/{sample.get('filter', 'none')}/{sample['doc_id']}",
        "task": task,
        "filter": sample.get("filter", "none"),
        "target": str(sample["target"]),
        "response": response if isinstance(response, str) else json.dumps(response),
        "metrics": [
            {"name": name, "value": float(sample[name])}
            for name in names
            if isinstance(sample.get(name), int | float)
        ],
    }


def metrics_of(results: Mapping[str, Any]) -> dict[str, float]:
    """`harness/<task>/<metric>` (with the filter's name where it has one) and its `stderr`."""
    found = {}
    for task, values in results["results"].items():
        for key, value in values.items():
            name, _, filtered = key.partition(",")
            if isinstance(value, bool) or not isinstance(value, int | float) or not filtered:
                continue
            stderr = name.endswith("_stderr")
            at = f"harness/{task}/{name.removesuffix('_stderr')}"
            at += "" if filtered == "none" else f"/{filtered}"
            found[f"{at}/stderr" if stderr else at] = float(value)
    return found


def _external(settings: HarnessSettings) -> dict[str, str]:
    """Task and data files, whose change makes the stage run again."""
    files = {t.task: str(t.file) for t in settings.tasks if t.file}
    files |= {t.data: t.data for t in settings.tasks if t.data}
    return {f"file:{name}": fingerprints.of_file(uri)["sha256"] for name, uri in files.items()}


def _validate(settings: HarnessSettings) -> list[str]:
    local = ", ".join(sorted(f"local/{one.stem}" for one in _LOCAL.glob("*.yaml")))
    return [
        f"tasks.{n}.task: no file {t.file}; choices that ship: {local}"
        for n, t in enumerate(settings.tasks)
        if t.file is not None and not t.file.is_file()
    ]


STAGE = Stage(
    kind="harness",
    settings=HarnessSettings,
    run=run,
    reads={"model": Reads("model", optional=True)},
    adds=tuple(ROWS.names),
    own_devices=True,
    sources=lambda settings: ["module:rayonale.evaluate.harness_process"],
    external_inputs=_external,
    validate=_validate,
)
