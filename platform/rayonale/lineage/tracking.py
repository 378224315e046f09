"""MLflow: one run per execution of a recipe, and under it one run per stage.

    experiment <recipe>
      run <recipe> 2026-01-31 12:00          one execution; says which stages were reused
        run pairs    params: settings   tags: fingerprint, code version, parents
        run sft      data set inputs    metrics: counts, seconds, rows/s, the stage's own
        run dpo      model output       artifacts: prompts, settings

The default is an SQLite file beside the runs (`<runs>/mlflow.db`); MLFLOW_TRACKING_URI names any
other server. A server that cannot be reached at the start stops the job with a clear message. One
that goes away later does not: training goes on, and what MLflow missed is kept in the stage's
manifest.
"""

from __future__ import annotations

import datetime
import logging
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock

from rayonale import storage
from rayonale.lineage import record
from rayonale.lineage.metric_writer import MetricWriter, finite, first_line
from rayonale.lineage.registered_models import register, registered_model_folder

__all__ = ["Run", "Tracker", "client_of", "default_uri", "registered_model_folder"]

log = logging.getLogger("rayonale")


def default_uri(runs: str = "runs") -> str:
    """MLFLOW_TRACKING_URI, or an SQLite file in the runs folder (`./runs` when that is remote)."""
    if given := os.environ.get("MLFLOW_TRACKING_URI"):
        return given
    folder = Path("runs") if "://" in runs else Path(runs)
    return f"sqlite:///{folder.expanduser().resolve()}/mlflow.db"


def client_of(uri: str) -> Any:
    """An `MlflowClient` of a tracking server; MLflow's import (3-5 s) is paid here."""
    # A server that is gone must be noticed in seconds: MLflow's own defaults take minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for noisy in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _one_at_a_time(uri: str) -> AbstractContextManager[Any]:
    """A lock for a new SQLite file: two processes that make its tables at once both fail."""
    if not uri.startswith("sqlite:///"):
        return nullcontext()
    file = Path(uri.removeprefix("sqlite:///"))
    file.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(file.with_name(f".{file.name}.lock"))


class Tracker:
    """MLflow for one execution of a recipe; use as a context manager.

    Args:
        name: of the recipe: the experiment's name.
        runs: folder or URI of the runs.
        source: the recipe's file.
        overrides: assignments that were given on the command line.

    Raises:
        ValueError: the tracking server cannot be reached.
    """

    def __init__(
        self,
        name: str,
        runs: str,
        description: str = "",
        source: str = "",
        overrides: tuple[str, ...] = (),
    ) -> None:
        self.name, self.runs = name, runs
        self.uri = default_uri(runs)
        self._about = {"description": description, "source": source, "overrides": overrides}
        self._client: Any = None
        self._experiment = self._parent = ""
        self._notes: list[str] = []
        self._finished: list[Mapping[str, Any]] = []  # manifests of the stages that were run

    def __enter__(self) -> Tracker:
        try:
            with _one_at_a_time(self.uri):
                self._client = client_of(self.uri)
                self._experiment = self._open_experiment()
            self._parent = self._open_parent()
        except Exception as error:
            raise ValueError(
                f"MLflow tracking server {self.uri}: {first_line(error)}; expected a server that "
                "answers (MLFLOW_TRACKING_URI; without it an SQLite file beside the runs is used)"
            ) from error
        log.info("MLflow: %s, experiment %s", self.uri, self.name)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        note = record.execution_note(self._about, self._notes)

        def tell() -> None:
            self._client.set_tag(self._parent, "mlflow.note.content", note)
            for key, value in record.execution_counts(self._finished).items():
                self._client.log_metric(self._parent, key, value)
            self._client.set_terminated(self._parent, record.status_of(kind))

        self._try("the execution's end", tell)

    def note_reuse(self, name: str, manifest: Mapping[str, Any]) -> None:
        """Record on the execution's run that a finished stage was reused."""
        run_id = manifest.get("mlflow_run_id")
        self._notes.append(f"- {name}: reused, {record.run_link(self._experiment, run_id)}")
        self._try(
            f"reuse of {name}",
            lambda: self._client.set_tag(
                self._parent, f"rayonale.reused.{name}", run_id or manifest["fingerprint"]
            ),
        )

    @contextmanager
    def stage_run(
        self,
        *,
        name: str,
        kind: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Any],
        fingerprint: str,
        code_version: str,
        out: str,
    ) -> Iterator[Run]:
        """A stage's run; an exception ends it as FAILED with the error, and goes on."""
        stage = record.StageRecord(name, kind, settings, inputs, fingerprint, code_version, out)
        run_id = self._try(f"the start of {name}", lambda: self._open_run(stage)) or None
        self._notes.append(f"- {name}: run, {record.run_link(self._experiment, run_id)}")
        run = Run(self, stage, run_id)
        try:
            yield run
        except BaseException as error:
            run._fail(error)
            raise
        run._close()

    def _open_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self.name)
        if found is None:
            local = self.uri.startswith("sqlite:///")
            root = self.runs if "://" in self.runs else str(Path(self.runs).resolve())
            location = storage.join(root, "mlflow-artifacts", self.name) if local else None
            try:
                return str(self._client.create_experiment(self.name, location))
            except Exception:  # another process made it in the meantime
                found = self._client.get_experiment_by_name(self.name)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _open_parent(self) -> str:
        self._end_dead_runs()
        tags = record.process_tags() | {
            "mlflow.source.name": str(self._about["source"] or Path(sys.argv[0]).name),
            "mlflow.source.type": "JOB",
            "rayonale.overrides": " ".join(self._about["overrides"]),
            "rayonale.level": "execution",
        }
        at = datetime.datetime.now().isoformat(" ", "seconds")
        run = self._client.create_run(self._experiment, tags=tags, run_name=f"{self.name} {at}")
        return str(run.info.run_id)

    def _end_dead_runs(self) -> None:
        """Runs of processes of this machine that were killed are ended as KILLED."""
        here = f"attributes.status = 'RUNNING' AND tags.`rayonale.host` = '{socket.gethostname()}'"
        for run in self._client.search_runs([self._experiment], here, max_results=200):
            if not record.process_lives(run.data.tags):
                self._client.set_terminated(run.info.run_id, "KILLED")

    def _open_run(self, stage: record.StageRecord) -> str:
        from mlflow.entities import Param, RunTag

        tags = record.process_tags() | {
            "mlflow.parentRunId": self._parent,
            "mlflow.source.name": str(self._about["source"] or Path(sys.argv[0]).name),
            "mlflow.source.type": "JOB",
            "rayonale.level": "stage",
            "rayonale.recipe": self.name,
            **stage.tags(),
            "mlflow.note.content": stage.note(self._experiment),
        }
        run = self._client.create_run(
            self._experiment, tags=record.shortened(tags), run_name=stage.name
        )
        run_id = str(run.info.run_id)
        params = [Param(key, value) for key, value in record.flat(stage.settings).items()]
        for start in range(0, len(params), 100):  # MLflow's limit for one request
            self._client.log_batch(run_id, params=params[start : start + 100])
        models = record.model_inputs(stage.parents())
        self._client.log_inputs(run_id, datasets=record.data_sets(stage.parents()), models=models)
        self._client.log_batch(run_id, tags=[RunTag("rayonale.started", "true")])
        return run_id

    def _try(self, what: str, action: Callable[[], Any]) -> Any:
        """Do something with MLflow; when it fails, warn loudly and go on."""
        try:
            return action()
        except Exception as error:
            log.warning(
                "MLflow did not take %s (%s); the work goes on and the stage's manifest keeps it",
                what,
                first_line(error),
            )
            return None


class Run:
    """A stage's MLflow run. `run_id` is None when the tracking server was not there."""

    def __init__(self, tracker: Tracker, stage: record.StageRecord, run_id: str | None) -> None:
        self.run_id = run_id
        self._tracker, self._stage = tracker, stage
        self._client = tracker._client
        self._untracked: list[tuple[str, float, int]] = []
        self._writer = MetricWriter(self._client, run_id) if run_id else None
        self._finished = False

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers (at a step of a curve); returns at once, MLflow gets them from a thread."""
        if self._writer is not None:
            self._writer.write(values, step)
        else:
            self._untracked += [(key, float(v), step or 0) for key, v in values.items()]

    def finish(self, manifest: dict[str, Any]) -> None:
        """Log the stage's result: counts, prompts, raw files, the model and its registration.

        Adds to the manifest `registered_model` for a stage with a model, and `mlflow_missed`
        (the error, and metrics as [name, value, step]) when the server did not take everything.
        """
        self._tracker._finished.append(manifest)
        folder = storage.join(self._stage.out, storage.MODEL)
        name = f"{self._tracker.name}-{self._stage.name}"
        if self.run_id:
            self._tracker._try("the stage's result", lambda: self._log_result(manifest))
            if storage.exists(storage.join(folder, "config.json")):
                registered = self._tracker._try(
                    f"the model {name}",
                    lambda: register(
                        self._client, name, folder, self._tracker._experiment, manifest
                    ),
                )
                if registered:
                    manifest["registered_model"] = registered
        else:
            self.log_metrics(record.counts(manifest))
        missed = self._drain()
        if missed or not self.run_id:
            manifest["mlflow_missed"] = {
                "server": self._tracker.uri,
                "metrics": [[key, finite(value), step] for key, value, step in missed],
            }
        self._finished = True

    def _log_result(self, manifest: Mapping[str, Any]) -> None:
        client, run_id = self._client, self.run_id
        assert run_id is not None
        self.log_metrics(record.counts(manifest))
        client.log_inputs(run_id, datasets=record.raw_data_sets(manifest.get("raw_inputs", [])))
        for prompt, about in manifest.get("prompts", {}).items():
            client.set_tag(run_id, f"rayonale.prompt.{prompt[-200:]}", about["fingerprint"])
            client.log_text(run_id, about["text"], f"prompts/{prompt.lstrip('/')}.txt")
        client.log_dict(run_id, dict(manifest["settings"]), "settings.json")
        note = self._stage.note(self._tracker._experiment, manifest)
        client.set_tag(run_id, "mlflow.note.content", note)

    def _drain(self) -> list[tuple[str, float, int]]:
        missed = [(p.key, p.value, p.step) for p in self._writer.close()] if self._writer else []
        self._writer, found = None, self._untracked + missed
        self._untracked = []
        return found

    def _close(self) -> None:
        self._drain()
        if self.run_id:
            self._tracker._try(
                f"the end of {self._stage.name}",
                lambda: self._client.set_terminated(self.run_id, "FINISHED"),
            )

    def _fail(self, error: BaseException) -> None:
        self._drain()
        if not self.run_id:
            return
        told = "".join(traceback.format_exception(error))
        tags = record.shortened({"rayonale.error": f"{type(error).__name__}: {error}"})

        def tell() -> None:
            self._client.set_tag(self.run_id, "rayonale.error", tags["rayonale.error"])
            self._client.log_text(self.run_id, told, "error.txt")
            self._client.set_terminated(self.run_id, record.status_of(type(error)))

        self._tracker._try(f"the failure of {self._stage.name}", tell)
