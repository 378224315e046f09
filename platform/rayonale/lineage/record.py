"""What MLflow is told of a stage: parameters, tags, inputs, counts and the note that people read.

Pure functions from stages to MLflow's values; sending them is `tracking.py`'s.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from rayonale.lineage.metric_writer import metric_key

PARAM_LIMIT = 6_000  # characters of a parameter's value that MLflow takes
TAG_LIMIT = 8_000
DIGEST_LIMIT = 36
NAME_LIMIT = 250


@dataclass(frozen=True)
class StageRecord:
    """A stage that is about to run; `inputs` holds `StageOutput`s by role, or lists of them."""

    name: str
    kind: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, Any]
    fingerprint: str
    code_version: str
    out: str

    def parents(self) -> list[dict[str, Any]]:
        """The outputs that are read: role, name, uri, fingerprint, MLflow run, model id."""
        found = []
        for role, outputs in self.inputs.items():
            for output in outputs if isinstance(outputs, list) else [outputs]:
                model = output.manifest.get("registered_model") or {}
                found.append(
                    {
                        "role": role,
                        "name": output.name,
                        "kind": output.kind,
                        "uri": output.uri,
                        "fingerprint": output.fingerprint,
                        "mlflow_run_id": output.manifest.get("mlflow_run_id"),
                        "model_id": model.get("model_id"),
                    }
                )
        return found

    def tags(self) -> dict[str, str]:
        """Tags under which the run can be found."""
        return {
            "rayonale.stage": self.name,
            "rayonale.kind": self.kind,
            "rayonale.fingerprint": self.fingerprint,
            "rayonale.code_version": self.code_version,
            "rayonale.out": self.out,
            **_listed("rayonale.parents", self.parents()),
        }

    def note(self, experiment: str, manifest: Mapping[str, Any] | None = None) -> str:
        """Markdown that the MLflow page shows at the top of the run."""
        lines = [f"**{self.name}** ({self.kind}), code {self.code_version[:12]}", ""]
        lines.append(f"Output: `{self.out}`")
        for parent in self.parents():
            link = run_link(experiment, parent["mlflow_run_id"])
            lines.append(
                f"- reads as *{parent['role']}*: **{parent['name']}** {link} `{parent['uri']}`"
            )
        if manifest:
            for file in manifest.get("raw_inputs", []):
                lines.append(f"- raw file `{file['uri']}`, sha256 `{file.get('sha256')}`")
            for prompt, about in manifest.get("prompts", {}).items():
                lines.append(f"- prompt *{prompt}* `{about['fingerprint']}`")
            if model := manifest.get("registered_model"):
                lines.append(f"- model **{model['name']}** version {model['version']}")
            lines += ["", f"{manifest['rows_in']} rows in, {manifest['rows_out']} out"]
        lines += ["", f"Ancestry: `python jobs/show_lineage.py {self.out}`"]
        return "\n".join(lines)[:TAG_LIMIT]


def _listed(tag: str, items: list[dict[str, Any]]) -> dict[str, str]:
    """A list as JSON in as many tags (`tag`, `tag.1` …) as MLflow's limit needs."""
    lists: list[list[dict[str, Any]]] = [[]]
    for item in items:
        if len(json.dumps([*lists[-1], item])) > TAG_LIMIT:
            lists.append([])
        lists[-1].append(item)
    return {f"{tag}.{n}" if n else tag: json.dumps(each) for n, each in enumerate(lists)}


def listed(tag: str, tags: Mapping[str, str]) -> list[dict[str, Any]]:
    """The list that `_listed` put into tags."""
    found: list[dict[str, Any]] = json.loads(tags.get(tag, "[]"))
    number = 1
    while part := tags.get(f"{tag}.{number}"):
        found += json.loads(part)
        number += 1
    return found


def run_link(experiment: str, run_id: str | None) -> str:
    """Markdown link to a run's page."""
    return f"[{run_id[:8]}](#/experiments/{experiment}/runs/{run_id})" if run_id else "(no run)"


def execution_note(about: Mapping[str, Any], notes: list[str]) -> str:
    """Markdown for the run of a whole execution: what was run, what was reused."""
    lines = [str(about["description"]), f"Recipe: `{about['source']}`"]
    if about["overrides"]:
        lines.append(f"Overrides: `{' '.join(about['overrides'])}`")
    return "\n".join([*lines, "", *notes]).strip()[:TAG_LIMIT]


def process_tags() -> dict[str, str]:
    """Who runs: so that a run whose process was killed can be told from one that works."""
    process = psutil.Process()
    return {
        "mlflow.user": _user(),
        "rayonale.host": socket.gethostname(),
        "rayonale.process": f"{process.pid}:{int(process.create_time())}",
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # containers may run under a number without a name
        return str(os.getuid())


def process_lives(tags: Mapping[str, str]) -> bool:
    """Whether the process that a run's tags name (on this machine) is still there."""
    pid, _, started = tags.get("rayonale.process", "").partition(":")
    if not pid.isdigit():
        return True
    try:
        # The start time tells the process from another one with the same number.
        return abs(psutil.Process(int(pid)).create_time() - int(started)) < 2
    except psutil.NoSuchProcess:
        return False


def status_of(kind: type[BaseException] | None) -> str:
    """MLflow's status of a run that ended with an exception of this kind (or none)."""
    if kind is None:
        return "FINISHED"
    return "FAILED" if issubclass(kind, Exception) else "KILLED"


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as MLflow parameters: `{"loss": {"beta": 0.1}}` → `{"loss.beta": "0.1"}`.

    Lists are JSON. A value longer than MLflow takes is cut; settings.json has it whole.
    """
    found: dict[str, str] = {}
    for key, value in settings.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{path}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            found[metric_key(path)] = text if len(text) <= PARAM_LIMIT else _cut(text, PARAM_LIMIT)
    return found


def _cut(text: str, limit: int) -> str:
    return text[: limit - 1] + "…"


def shortened(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags within MLflow's limit for a value."""
    return {k: v if len(v) <= TAG_LIMIT else _cut(v, TAG_LIMIT) for k, v in tags.items()}


def counts(manifest: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a finished stage: rows, rejects by kind and reason, time, rate, its metrics."""
    rows_in, seconds = manifest["rows_in"], manifest["seconds"]
    numbers = {"rows_in": rows_in, "rows_out": manifest["rows_out"], "seconds": seconds}
    if seconds > 0 and rows_in:
        numbers["rows_per_second"] = rows_in / seconds
    for kind, reasons in manifest["rejects"].items():
        numbers[f"rejects.{kind}"] = sum(reasons.values())
        for reason, count in reasons.items():
            numbers[f"rejects.{kind}.{reason}"] = count
    numbers |= expected(manifest)
    own = {k: v for k, v in manifest["metrics"].items() if isinstance(v, int | float)}
    return {key: float(value) for key, value in (numbers | own).items()}


def expected(manifest: Mapping[str, Any]) -> dict[str, float]:
    """The estimate that was made before, and its ratio to what the stage took (1 is right)."""
    before = manifest.get("expected") or {}
    numbers = {
        "expected.seconds": before.get("seconds"),
        "expected.rows_out": before.get("rows_out"),
        "expected.bytes": before.get("bytes"),
        **{f"expected.{name}_tokens": n for name, n in (before.get("tokens") or {}).items()},
    }
    if before.get("seconds") is not None and manifest["seconds"] > 0:
        numbers["expected.ratio"] = before["seconds"] / manifest["seconds"]
    return {name: float(value) for name, value in numbers.items() if value is not None}


def execution_counts(manifests: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of the stages that were run; of those with an estimate, beside the estimate."""
    found = [(m["seconds"], (m.get("expected") or {}).get("seconds")) for m in manifests]
    numbers = {"seconds": sum(took for took, _ in found)}
    both = [(took, before) for took, before in found if before is not None]
    if both and (took := sum(one for one, _ in both)):
        numbers["expected.seconds"] = sum(before for _, before in both)
        numbers["expected.ratio"] = numbers["expected.seconds"] / took
    return {name: float(value) for name, value in numbers.items()}


def data_sets(parents: Iterable[Mapping[str, Any]]) -> list[Any]:
    """Parents as MLflow data set inputs: name, digest = fingerprint, source = URI."""
    return [
        _data_set(parent["name"], parent["fingerprint"], {"uri": parent["uri"]}, parent["role"])
        for parent in parents
    ]


def raw_data_sets(files: Iterable[Mapping[str, Any]]) -> list[Any]:
    """Raw files from outside as MLflow data set inputs."""
    return [
        _data_set(
            str(file["uri"]).rsplit("/", 1)[-1], str(file.get("sha256") or ""), dict(file), "raw"
        )
        for file in files
    ]


def _data_set(name: str, digest: str, source: Mapping[str, Any], role: str) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    data_set = Dataset(
        name=name[:NAME_LIMIT] or "data",
        digest=digest[:DIGEST_LIMIT] or "unknown",
        source_type="local" if "://" not in str(source["uri"]) else "uri",
        source=json.dumps(source),
    )
    return DatasetInput(data_set, [InputTag("mlflow.data.context", role)])


def model_inputs(parents: Iterable[Mapping[str, Any]]) -> list[Any] | None:
    """Parents that are models, as MLflow model inputs."""
    from mlflow.entities import LoggedModelInput

    found = [LoggedModelInput(p["model_id"]) for p in parents if p["model_id"]]
    return found or None
