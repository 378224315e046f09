"""What a model or a run was made from: a tree down to raw files, prompts, settings and code.

Manifests in the stages' folders are the source; where a folder is gone, MLflow's record of the
run stands in.

    sft (train) ── rows ─► pairs (ingest) ─► raw file pairs.jsonl, sha256 …
         └────── model ─► tinyworld, content hash …
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rayonale import storage
from rayonale.lineage import fingerprints, record, tracking
from rayonale.lineage.registered_models import version_of

_RUN_ID = re.compile(r"[0-9a-f]{32}$")
_REFERENCE = re.compile(r"[^/@]+(/\d+|@[^/@]+)$")  # name/version, name@alias


@dataclass
class Ancestor:
    """A stage, a model from outside, or an execution; `parents` are what it read."""

    name: str
    kind: str
    uri: str
    role: str = ""  # in which its child read it
    fingerprint: str = ""
    code_version: str = ""
    mlflow_run_id: str | None = None
    registered_model: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, Any] = field(default_factory=dict)
    prompts: Mapping[str, Any] = field(default_factory=dict)
    raw_inputs: list[Mapping[str, Any]] = field(default_factory=list)
    external: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    parents: list[Ancestor] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The tree as JSON-able dictionaries."""
        return asdict(self)


@dataclass
class _Walk:
    """The runs folder, and what has been found on the way (a stage is read by many)."""

    runs: str
    seen: dict[str, Ancestor] = field(default_factory=dict)


def trace(target: str, runs: str = "runs") -> Ancestor:
    """The ancestry of something.

    Args:
        target: a stage's folder or its model folder, a registered model (`name`,
            `name/version`, `name@alias`, `models:/…`), an MLflow run id, or `tinyworld`.
        runs: the runs folder, where MLflow's file is when MLFLOW_TRACKING_URI is not set.

    Raises:
        ValueError: there is no such thing; the message lists what is near.
    """
    walk = _Walk(runs)
    if (folder := _stage_folder(target)) is not None:
        return _of_folder(folder, walk)
    if storage.exists(target) or target == "tinyworld":
        return _external({"name": target.rstrip("/").rsplit("/", 1)[-1], "uri": target})
    if _RUN_ID.match(target):
        return _of_run(target, walk)
    if "/" in target and not target.startswith("models:/") and not _REFERENCE.match(target):
        raise ValueError(f"{target}: no such folder{_near(target, runs)}")
    try:
        version = version_of(_as_reference(target, runs), runs)
    except ValueError as error:
        raise ValueError(f"{error}{_near(target, runs)}") from error
    folder = _stage_folder(version.tags.get("rayonale.uri", ""))
    run_id = getattr(version, "run_id", None) or getattr(version, "source_run_id", None)
    if folder is not None:
        return _of_folder(folder, walk)
    if not run_id:
        raise ValueError(f"{target}: registered by something else than a stage: nothing is known")
    return _of_run(run_id, walk)


def _stage_folder(uri: str) -> str | None:
    """The stage's folder when `uri` is one, or the rows, rejects or model in one."""
    if not uri:
        return None
    uri = uri.rstrip("/")
    for folder in (uri, uri.rpartition("/")[0]):
        if folder and storage.exists(storage.join(folder, storage.MANIFEST)):
            return folder
    return None


def _as_reference(target: str, runs: str) -> str:
    """`name`, `name/version` and `name@alias` as `models:/…`; a bare name is its last version."""
    if target.startswith("models:/"):
        return target
    if "/" in target or "@" in target:
        return f"models:/{target}"
    client = tracking.client_of(tracking.default_uri(runs)) if _has_mlflow(runs) else None
    found = (
        client.search_model_versions(f"name = '{target}'") if client and "'" not in target else []
    )
    return f"models:/{target}/{max((int(v.version) for v in found), default=1)}"


def _has_mlflow(runs: str) -> bool:
    uri = tracking.default_uri(runs)
    return not uri.startswith("sqlite:///") or storage.exists(uri.removeprefix("sqlite:///"))


def _near(target: str, runs: str) -> str:
    folders = list(stage_folders(runs))
    names = {folder.split("/")[-2] for folder in folders}
    close = difflib.get_close_matches(target.rsplit("/", 1)[-1], names, n=3)
    near = [folder for folder in folders if folder.split("/")[-2] in close] or folders
    listed = "".join(f"\n  {folder}" for folder in near[:8])
    return f"\nstage folders{' near it' if close else ''}:{listed}" if near else ""


def stage_folders(runs: str) -> Iterator[str]:
    """Finished stages under a runs folder: `<runs>/<recipe>/<stage>/<fingerprint>`."""
    fs, path = storage.filesystem(runs)
    for depth in ("*/*", "*/*/*"):  # `jobs/<job>.py --out` has no folder of a recipe
        for found in sorted(fs.glob(f"{path.rstrip('/')}/{depth}/{storage.MANIFEST}")):
            yield storage.join(runs, found[len(path.rstrip("/")) :].rpartition("/")[0])


def _of_folder(folder: str, walk: _Walk, role: str = "") -> Ancestor:
    manifest = storage.read_json(storage.join(folder, storage.MANIFEST))
    model = manifest.get("registered_model")
    node = Ancestor(
        name=manifest["name"],
        kind=manifest["kind"],
        uri=folder,
        role=role,
        fingerprint=manifest["fingerprint"],
        code_version=manifest["code_version"],
        mlflow_run_id=manifest.get("mlflow_run_id"),
        registered_model=f"{model['name']}/{model['version']}" if model else None,
        settings=manifest["settings"],
        counts={key: manifest[key] for key in ("rows_in", "rows_out", "rejects", "seconds")},
        prompts=manifest.get("prompts", {}),
        raw_inputs=manifest.get("raw_inputs", []),
        external=manifest.get("external", {}),
    )
    node.parents = [
        _parent(given, role, walk)
        for role, outputs in manifest["inputs"].items()
        for given in (outputs if isinstance(outputs, list) else [outputs])
    ]
    return node


def _parent(given: Mapping[str, Any], role: str, walk: _Walk) -> Ancestor:
    """An input of a stage, as its manifest (or MLflow) names it."""
    key = f"{given['uri']} {given['fingerprint']}"
    if key not in walk.seen:
        folder = _stage_folder(given["uri"])
        if folder is not None:
            found = _of_folder(folder, walk, role)
            if found.fingerprint != given["fingerprint"]:
                found.note = f"CHANGED since: was {given['fingerprint']} when it was read"
        elif given.get("mlflow_run_id"):
            try:
                found = _of_run(given["mlflow_run_id"], walk)
            except ValueError as error:
                found = _external(given, note=f"folder is gone; {error}")
        else:
            found = _external(given)
        walk.seen[key] = found
        found.role = role
        return found
    first = walk.seen[key]
    return Ancestor(first.name, first.kind, first.uri, role, first.fingerprint, note="shown above")


def _external(given: Mapping[str, Any], note: str = "") -> Ancestor:
    """A folder or model from outside: its fingerprint when read, its own or its content's."""
    from rayonale import models

    uri = given["uri"]
    found = given.get("fingerprint", "")
    if uri == "tinyworld" or storage.exists(storage.join(uri, "config.json")):
        found = found or models.fingerprint(uri)
        return Ancestor(given["name"], "external model", models.resolve(uri), "", found, note=note)
    found = found or fingerprints.of_folder(uri)
    return Ancestor(given["name"], "external", uri, fingerprint=found, note=note)


def _of_run(run_id: str, walk: _Walk) -> Ancestor:
    """A stage (or a whole execution) as MLflow knows it; its folder is preferred."""
    uri = tracking.default_uri(walk.runs)
    if not _has_mlflow(walk.runs):
        raise ValueError(f"{run_id}: no MLflow data at {uri}")
    client = tracking.client_of(uri)
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise ValueError(f"{run_id}: no such MLflow run in {uri}") from error
    tags = run.data.tags
    if tags.get("rayonale.level") == "execution":
        return _execution(client, run, walk)
    if "rayonale.out" not in tags:
        raise ValueError(f"{run_id}: an MLflow run, but not one of a stage")
    if (folder := _stage_folder(tags["rayonale.out"])) is not None:
        found = _of_folder(folder, walk)
        if found.mlflow_run_id == run_id:
            return found
    return _as_mlflow_knows(run, walk)


def _as_mlflow_knows(run: Any, walk: _Walk) -> Ancestor:
    tags = run.data.tags
    raw = [json.loads(i.dataset.source) for i in run.inputs.dataset_inputs if _is_raw(i)]
    prompts = {
        key.removeprefix("rayonale.prompt."): {"fingerprint": value}
        for key, value in tags.items()
        if key.startswith("rayonale.prompt.")
    }
    wanted = ("rows_in", "rows_out", "seconds")
    node = Ancestor(
        name=tags["rayonale.stage"],
        kind=tags["rayonale.kind"],
        uri=tags["rayonale.out"],
        fingerprint=tags["rayonale.fingerprint"],
        code_version=tags["rayonale.code_version"],
        mlflow_run_id=run.info.run_id,
        settings=dict(run.data.params),
        counts={key: run.data.metrics[key] for key in wanted if key in run.data.metrics},
        prompts=prompts,
        raw_inputs=raw,
        note=f"folder is gone or unfinished; as MLflow knows it ({run.info.status.lower()})",
    )
    parents = record.listed("rayonale.parents", tags)
    node.parents = [_parent(parent, parent["role"], walk) for parent in parents]
    return node


def _is_raw(given: Any) -> bool:
    return any(tag.key == "mlflow.data.context" and tag.value == "raw" for tag in given.tags)


def _execution(client: Any, run: Any, walk: _Walk) -> Ancestor:
    tags = run.data.tags
    mine = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    ran = client.search_runs([run.info.experiment_id], mine, order_by=["attributes.start_time"])
    reused = [v for k, v in sorted(tags.items()) if k.startswith("rayonale.reused.")]
    node = Ancestor(run.info.run_name, "execution", tags.get("mlflow.source.name", ""))
    node.mlflow_run_id = run.info.run_id
    node.note = tags.get("rayonale.overrides", "")
    node.parents = [_of_run(r, walk) for r in [*reused, *(r.info.run_id for r in ran)]]
    return node
