"""MLflow: one run a recipe execution, one run a stage below it, models registered.

The tracking server is `MLFLOW_TRACKING_URI`, else a SQLite file in the runs folder. A server
that cannot be reached at the start is an error; one that is lost later is told loudly and does
not stop the work: the numbers are in the stage's manifest anyway.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

log = logging.getLogger("rayonale")

_PARAM_CHARS = 6_000  # MLflow's limit for a value
_BATCH = 100  # params or metrics a request
_FLUSH = 500  # buffered metrics
_TAG = "rayonale."


def default_uri(runs: str) -> str:
    """Tracking URI for a runs folder when the environment names none."""
    folder = Path(runs).absolute() if "://" not in runs else Path("runs").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder}/mlflow.db"


def tracking_uri(runs: str = "runs") -> str:
    """The tracking URI in force: the environment's, else the runs folder's own."""
    return os.environ.get("MLFLOW_TRACKING_URI") or default_uri(runs)


def client(runs: str = "runs") -> Any:
    """An MLflow client of the tracking URI in force."""
    import mlflow

    logging.getLogger("alembic").setLevel(logging.WARNING)
    uri = tracking_uri(runs)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow.MlflowClient(uri, uri)


def registered_model_folder(ref: str, runs: str = "runs") -> str:
    """Folder of a registered model `models:/name/version` or `models:/name@alias`.

    Raises:
        ValueError: no such model or version.
    """
    from mlflow.exceptions import MlflowException

    name, _, version = ref.removeprefix("models:/").replace("@", "/@").partition("/")
    mlflow_client = client(runs)
    try:
        if version.startswith("@"):
            found = mlflow_client.get_model_version_by_alias(name, version[1:])
        elif version:
            found = mlflow_client.get_model_version(name, version)
        else:
            versions = mlflow_client.search_model_versions(f"name = '{name}'")
            if not versions:
                raise ValueError(f"model {ref!r}: no registered model of that name")
            found = max(versions, key=lambda v: int(v.version))
    except MlflowException as error:
        raise ValueError(f"model {ref!r}: {error.message}") from error
    return str(found.tags.get(f"{_TAG}folder") or found.source).removeprefix("file://")


class Run:
    """A stage's MLflow run. Metrics are buffered, so that logging a step costs next to nothing."""

    def __init__(self, mlflow_client: Any, run_id: str, recipe: str) -> None:
        self._client, self.run_id, self._recipe = mlflow_client, run_id, recipe
        self._buffer: list[tuple[str, float, int, int]] = []
        self._lost = False

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record numbers; `step` orders the points of a curve."""
        now = int(time.time() * 1_000)
        for name, value in metrics.items():
            self._buffer.append((name, float(value), now, step or 0))
        if len(self._buffer) >= _FLUSH:
            self.flush()

    def flush(self) -> None:
        """Send what is buffered."""
        from mlflow.entities import Metric

        points, self._buffer = self._buffer, []
        for start in range(0, len(points), 1_000):
            batch = [Metric(*point) for point in points[start : start + 1_000]]
            self._attempt(lambda batch=batch: self._client.log_batch(self.run_id, metrics=batch))

    def finish(self, manifest: Mapping[str, Any]) -> dict[str, str]:
        """Record what a finished stage reports; a model is registered.

        Returns:
            What the manifest gains: `registered_model` (`models:/name/version`) for a model.
        """
        counts = {"rows_in": manifest["rows_in"], "rows_out": manifest["rows_out"]}
        for kind, reasons in manifest["rejects"].items():
            counts[f"rejects_{kind}"] = sum(reasons.values())
        self.log_metrics({**counts, "seconds": manifest["seconds"], **manifest["metrics"]})
        self.flush()
        self._attempt(lambda: self._client.log_dict(self.run_id, manifest, "manifest.json"))
        for name, prompt in manifest["prompts"].items():
            path = f"prompts/{name.replace('/', '__').removesuffix('.jinja')}.jinja"
            self._attempt(lambda p=path, t=prompt["text"]: self._client.log_text(self.run_id, t, p))
        if "model" not in manifest:
            return {}
        facts = {"fingerprint": manifest["fingerprint"], "stage": manifest["name"]}
        uri = self.register(manifest["model"], f"{self._recipe}-{manifest['name']}", facts)
        return {"registered_model": uri} if uri else {}

    def register(self, folder: str, name: str, tags: Mapping[str, str]) -> str | None:
        """Register a model folder as the next version of `name`.

        The weights stay where they are: the version points at the folder.

        Returns:
            `models:/name/version`, or None when the server is lost.
        """
        from mlflow.exceptions import MlflowException

        def register() -> str:
            try:
                self._client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            source = folder if "://" in folder else Path(folder).absolute().as_uri()
            version = self._client.create_model_version(
                name,
                source,
                run_id=self.run_id,
                tags={
                    f"{_TAG}folder": folder,
                    **{f"{_TAG}{k}": v for k, v in tags.items()},
                },
            )
            return f"models:/{name}/{version.version}"

        return self._attempt(register)

    def tag(self, **tags: str) -> None:
        """Set tags."""
        for name, value in tags.items():
            self._attempt(
                lambda n=name, v=value: self._client.set_tag(self.run_id, f"{_TAG}{n}", v)
            )

    def _attempt(self, call: Any) -> Any:
        """A call to the server; when it fails, say so and go on."""
        try:
            return call()
        except Exception as error:  # whatever the server's trouble is, the work must not stop
            if not self._lost:
                log.warning("MLflow: %s; the stage goes on, its numbers are in the manifest", error)
            self._lost = True
            return None


class Tracker:
    """MLflow runs of one recipe execution; use as a context manager."""

    def __init__(
        self,
        recipe: str,
        runs: str,
        *,
        description: str = "",
        source: str = "",
        overrides: tuple[str, ...] = (),
    ) -> None:
        self._recipe, self._runs = recipe, runs
        self._facts = {"recipe": recipe, "source": source, "overrides": json.dumps(overrides)}
        self._description = description
        self._reused: dict[str, Any] = {}

    def __enter__(self) -> Tracker:
        try:
            self._client = client(self._runs)
            self._experiment = self._experiment_id()
        except Exception as error:
            raise ValueError(
                f"MLflow at {tracking_uri(self._runs)} cannot be used: {error}; set "
                "MLFLOW_TRACKING_URI to a server that can be reached, or unset it"
            ) from error
        tags = {"mlflow.runName": self._recipe, "mlflow.note.content": self._description}
        tags |= {f"{_TAG}{key}": value for key, value in self._facts.items()}
        run = self._client.create_run(self._experiment, tags=tags, run_name=self._recipe)
        self.run_id = run.info.run_id
        return self

    def __exit__(self, error_type: Any, error: BaseException | None, _: object) -> None:
        parent = Run(self._client, self.run_id, self._recipe)
        parent.tag(reused=json.dumps(self._reused))
        self._end(self.run_id, error)

    def note_reuse(self, name: str, manifest: Mapping[str, Any]) -> None:
        """Record that a stage was not run again."""
        self._reused[name] = manifest.get("mlflow_run_id")

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
        """A run for one stage, below the recipe's; failed when the stage raises."""
        outputs = [
            o for given in inputs.values() for o in (given if isinstance(given, list) else [given])
        ]
        parents = [
            {
                "name": o.name,
                "uri": o.uri,
                "fingerprint": o.fingerprint,
                "run_id": o.manifest.get("mlflow_run_id"),
            }
            for o in outputs
        ]
        facts = {
            "stage": name,
            "kind": kind,
            "fingerprint": fingerprint,
            "code_version": code_version,
            "out": out,
            "parents": json.dumps(parents),
            "recipe": self._recipe,
        }
        read = ", ".join(f"{o.name} ({o.fingerprint[:8]})" for o in outputs) or "nothing"
        tags = {f"{_TAG}{key}": value for key, value in facts.items()} | {
            "mlflow.parentRunId": self.run_id,
            "mlflow.note.content": f"`{kind}` → `{out}`\n\nreads {read}",
        }
        created = self._client.create_run(self._experiment, tags=tags, run_name=name)
        run = Run(self._client, created.info.run_id, self._recipe)
        run._attempt(lambda: self._log_params(run.run_id, settings))
        run._attempt(lambda: self._log_inputs(run.run_id, inputs))
        try:
            yield run
        except BaseException as error:
            run.flush()
            run.tag(error=f"{type(error).__name__}: {error}"[:_PARAM_CHARS])
            self._end(run.run_id, error)
            raise
        run.flush()
        self._end(run.run_id, None)

    def _end(self, run_id: str, error: BaseException | None) -> None:
        status = "FINISHED" if error is None else "FAILED"
        Run(self._client, run_id, self._recipe)._attempt(
            lambda: self._client.set_terminated(run_id, status)
        )

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._recipe)
        if found is not None:
            return str(found.experiment_id)
        location = None
        if tracking_uri(self._runs).startswith("sqlite"):
            database = tracking_uri(self._runs).removeprefix("sqlite:///")
            location = (Path(database).parent / "mlflow").absolute().as_uri()
        return str(self._client.create_experiment(self._recipe, artifact_location=location))

    def _log_params(self, run_id: str, settings: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(key, value[:_PARAM_CHARS]) for key, value in _flat(settings)]
        for start in range(0, len(params), _BATCH):
            self._client.log_batch(run_id, params=params[start : start + _BATCH])

    def _log_inputs(self, run_id: str, inputs: Mapping[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        found = []
        for role, given in inputs.items():
            for output in given if isinstance(given, list) else [given]:
                data = Dataset(
                    name=output.name,
                    digest=output.fingerprint[:16],
                    source_type="uri",
                    source=json.dumps({"uri": output.uri}),
                )
                found.append(DatasetInput(data, [InputTag("mlflow.data.context", role)]))
        if found:
            self._client.log_inputs(run_id, found)


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value if isinstance(value, str) else json.dumps(value)
