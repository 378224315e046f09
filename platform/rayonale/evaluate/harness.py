"""The `harness` stage: lm-evaluation-harness, run for real, on local tasks or its own.

    tasks + data ─► work: task files, request ─► harness_process.py (own process; vLLM or hf)
                                                    └─► rows/: one a sample;  metrics: task × metric

The harness is no part of the locks: `requirements/harness.txt` says what to install and how. A
local task is a file in the harness's layout with DATA (and EXAMPLES) in the place of its files,
which the stage fills in: a user's own, or one of `harness_tasks/`. A task of the harness is given
by its name there and needs what it needs (mostly the network).
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

import rayonale
from rayonale import models, storage
from rayonale.enrich import goal_prompt
from rayonale.evaluate.harness_files import LOCAL, HarnessTask, write_task
from rayonale.generate.engine_arguments import engine_arguments, on_gpu
from rayonale.generate.settings import EngineOptions
from rayonale.lineage import fingerprints
from rayonale.stages import Reads, Settings, Stage, StageContext, StageResult

log = logging.getLogger("rayonale")

Row = dict[str, Any]

INSTALL = "pip install --no-deps --target {} -r requirements/harness.txt"
PART = "__"  # between a task's name and the value that makes one of it (`HarnessTask.each`)
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


class HarnessSettings(Settings):
    """Settings of the `harness` stage.

    Attributes:
        model: what is measured, when no stage is read in the role `model`.
        tasks: run in one process, one engine for all.
        backend: `vllm`, `hf` (Transformers), or `auto`: vLLM unless its CPU build has no kernel
            for the model's attention heads.
        shots: examples shown before each question of tasks that say nothing themselves.
        limit: at most so many documents of a task; None takes all.
        chat: render each question as a user's turn of the model's chat template.
        goal: as in `samples`, with `chat`: told in the system message of policies that were trained
            so. Without `chat` there are no turns, and no goal is told.
        engine: how the model is run (one replica); hf takes `dtype` and `max_model_len` alone.
        batch_size: sequences at a time through hf; vLLM chooses for itself.
        packages: folder that the harness is installed in.
        timeout_s: seconds that the process may take.
    """

    model: str = "tinyworld"
    tasks: tuple[HarnessTask, ...] = Field(min_length=1)
    backend: Literal["auto", "vllm", "hf"] = "auto"
    shots: int | None = Field(None, ge=0)
    limit: int | None = Field(None, ge=1)
    chat: bool = False
    goal: goal_prompt.Goal | Literal["none"] | None = None
    engine: EngineOptions = EngineOptions()
    batch_size: int = Field(16, ge=1)
    packages: str = ".harness"
    timeout_s: float = Field(86_400, gt=0)

    @model_validator(mode="after")
    def _engine_is_used(self) -> HarnessSettings:
        ignored = {"replicas", "chat_template", "threads"}
        if self.backend == "hf":
            ignored = set(EngineOptions.model_fields) - {"dtype", "max_model_len"}
        for name in sorted(ignored):
            if getattr(self.engine, name) != EngineOptions.model_fields[name].default:
                raise ValueError(
                    f"engine.{name}: the harness runs its own engine, which ignores it "
                    f"(backend {self.backend})"
                )
        if self.goal is not None and not self.chat:
            raise ValueError("goal: told in a turn of the chat template; expected chat: true")
        if self.backend == "vllm" and "batch_size" in self.model_fields_set:
            raise ValueError("batch_size: vLLM chooses for itself and ignores it")
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
        asked = request(model, settings, folder)
        log.info("%s: lm-evaluation-harness over %d task(s)", context.name, len(asked["tasks"]))
        results = _call(asked, packages, folder, settings.timeout_s)
    rows = samples(results)
    if not rows:
        names = ", ".join(task["task"] for task in asked["tasks"])
        raise ValueError(f"{context.name}: the harness gave no samples of {names}")
    written = storage.write_rows(storage.join(context.out, storage.ROWS), iter(rows), ROWS)
    table = tables(results)
    measured = settings.model.rstrip("/").rsplit("/", 1)[-1] if read is None else read.name
    return StageResult(
        rows_in=written,
        rows_out=written,
        metrics=metrics_of(table),
        details={
            "harness": [{"model": measured, **row} for row in table],
            "version": results.get("lm_eval_version"),
            "backend": results["backend"],
            "measured": model,
            "limit": settings.limit,
        },
    )


def request(model: str, settings: HarnessSettings, folder: Path) -> Row:
    """What the harness's process is asked; task files are written to the folder."""
    backends = [[name, arguments(name, model, settings)] for name in ("vllm", "hf")
                if settings.backend in ("auto", name)]  # fmt: skip
    tasks = [
        {"task": name, "shots": settings.shots if task.shown is None else task.shown}
        for number, task in enumerate(settings.tasks)
        for name in write_task(folder / "tasks", number, task)
    ]
    return {
        "backends": backends,
        "tasks": tasks,
        "limit": settings.limit,
        "chat": settings.chat,
        "system": system_message(model, settings),
        "batch_size": settings.batch_size,
        "out": str(folder / "results.json"),
    }


def system_message(model: str, settings: HarnessSettings) -> str | None:
    """The sentence that tells a policy its goal; None where it is not asked.

    Raises:
        ValueError: the policy was trained to be told in the user's turn.
    """
    asked = goal_prompt.asked(settings.goal, model, None, "goal") if settings.chat else None
    if asked is None:
        return None
    told, goal = asked
    if told.place != "system":
        raise ValueError(
            f"goal: {model} is told its goal in the user's turn, where the harness cannot put it; "
            "expected goal: none"
        )
    return told.sentence(goal)


def arguments(backend: str, model: str, settings: HarnessSettings) -> Row:
    """A backend's arguments."""
    gpu = on_gpu()
    if backend == "vllm":
        engine = engine_arguments(model, settings.engine, gpu)
        engine.pop("model")
        return {"pretrained": model, **engine}
    name, revision = models.pinned(model)
    dtype = "float32" if settings.engine.dtype == "auto" and not gpu else settings.engine.dtype
    given = {"pretrained": name, "dtype": dtype, "max_length": settings.engine.max_model_len}
    return given if revision is None else given | {"revision": revision}


def _call(asked: Row, packages: Path, folder: Path, timeout: float) -> Row:
    """Have the process answer a request; what it measured."""
    source = str(Path(rayonale.__file__).resolve().parent.parent)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([source, str(packages)]),
        "HF_HOME": os.environ.get("HF_HOME", str(folder / "cache")),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1" if on_gpu() else "0",
    }
    file = folder / "request.json"
    file.write_text(json.dumps(asked), encoding="utf-8")
    whole = [sys.executable, "-m", "rayonale.evaluate.harness_process", str(file)]
    output = folder / "output.txt"
    with output.open("wb") as handle:
        try:
            done = subprocess.run(
                whole, env=environment, stdout=handle, stderr=subprocess.STDOUT, timeout=timeout,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"the harness took more than timeout_s = {timeout:.0f} s") from error
    if done.returncode or not Path(asked["out"]).is_file():
        told = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-15:]
        raise ValueError(f"the harness ended with {done.returncode}:\n" + "\n".join(told))
    results: Row = json.loads(Path(asked["out"]).read_text(encoding="utf-8"))
    return results


def samples(results: Mapping[str, Any]) -> list[Row]:
    """A row for each sample."""
    return [
        _row(task, sample) for task, found in results.get("samples", {}).items() for sample in found
    ]


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


def tables(results: Mapping[str, Any]) -> list[Row]:
    """Every task's metrics: {"task", "metric", "filter", "value", "stderr", "shots", "samples"}.

    Tasks that `each` made of one are followed by their mean, each counting the same.
    """
    found: list[Row] = []
    documents: dict[tuple[str, str], set[Any]] = {}
    for task, seen in results.get("samples", {}).items():
        for one in seen:
            documents.setdefault((task, one.get("filter", "none")), set()).add(one["doc_id"])
    parts: dict[tuple[str, str, str], list[Row]] = {}
    for task, values in results["results"].items():
        for key, value in values.items():
            name, _, filtered = key.partition(",")
            plain = not isinstance(value, bool) and isinstance(value, int | float)
            if not plain or not filtered or name.endswith("_stderr"):
                continue
            error = values.get(f"{name}_stderr,{filtered}")
            row = {
                "task": task,
                "metric": name,
                "filter": None if filtered == "none" else filtered,
                "value": float(value),
                "stderr": float(error) if isinstance(error, int | float) else None,
                "shots": results.get("n-shot", {}).get(task),
                "samples": len(documents.get((task, filtered), ())) or None,
            }
            found.append(row)
            if PART in task:
                parts.setdefault((task.split(PART)[0], name, filtered), []).append(row)
    for (task, _, _), rows in parts.items():
        found.append({**rows[0], "task": task, **_mean(rows)})
    return found


def _mean(rows: list[Row]) -> Row:
    """The mean of several tasks' values, and its standard error: theirs are independent."""
    errors = [row["stderr"] for row in rows]
    known = all(error is not None for error in errors)
    return {
        "value": sum(row["value"] for row in rows) / len(rows),
        "stderr": sum(error**2 for error in errors) ** 0.5 / len(rows) if known else None,
        "samples": sum(row["samples"] or 0 for row in rows) or None,
    }


def metrics_of(table: list[Row]) -> dict[str, float]:
    """`harness/<task>/<metric>` (with the filter's name where it has one) and its `stderr`."""
    found = {}
    for row in table:
        at = f"harness/{row['task']}/{row['metric']}" + (
            f"/{row['filter']}" if row["filter"] else ""
        )
        found[at] = row["value"]
        if row["stderr"] is not None:
            found[f"{at}/stderr"] = row["stderr"]
    return found


def _external(settings: HarnessSettings) -> dict[str, str]:
    """Task and data files, whose change makes the stage run again."""
    files = {t.named: str(t.file) for t in settings.tasks if t.file}
    files |= {uri: uri for t in settings.tasks for uri in (t.data, t.examples) if uri}
    return {f"file:{name}": fingerprints.of_file(uri)["sha256"] for name, uri in files.items()}


def _validate(settings: HarnessSettings) -> list[str]:
    local = ", ".join(sorted(f"local/{one.stem}" for one in LOCAL.glob("*.yaml")))
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
    sources=lambda settings: [
        "module:rayonale.evaluate.harness_process",
        "module:rayonale.evaluate.harness_scores",
    ],
    external_inputs=_external,
    validate=_validate,
)
