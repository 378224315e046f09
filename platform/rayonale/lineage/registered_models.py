"""Registered models: `<recipe>-<stage>`, one version per run that made one.

A version points at the stage's model folder; weights are not copied. The folder is kept in the
version's tag `rayonale.uri` as well, because a tracking server refuses local paths as a source.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from rayonale import storage

_REF = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[^/@]+))$")
_MODEL_ID = re.compile(r"models:/(?P<id>m-[0-9a-f]{32})$")


def register(
    client: Any, name: str, folder: str, experiment: str, manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """Log the model of a finished stage and make it a version of a registered model.

    Returns:
        `{"name":, "version":, "model_id":, "uri":}`.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException

    run_id, name = manifest["mlflow_run_id"], _safe(name)
    uri = folder if "://" in folder else str(Path(folder).resolve())
    tags = {
        "rayonale.uri": uri,
        "rayonale.fingerprint": manifest["fingerprint"],
        "rayonale.code_version": manifest["code_version"],
        "rayonale.stage": manifest["name"],
        "rayonale.kind": manifest["kind"],
    }
    if told := manifest.get("details", {}).get("goal_prompt"):
        tags["rayonale.goal_prompt"] = json.dumps(told)
    model = client.create_logged_model(
        experiment, name=name, source_run_id=run_id, tags=tags, model_type="transformers"
    )
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    if not _known(client, name):
        try:
            client.create_registered_model(name)
        except MlflowException:  # another process registered it in the meantime
            if not _known(client, name):
                raise
    note = f"Stage {manifest['name']} ({manifest['kind']}), run {run_id}. Folder: {uri}"

    def create(source: str) -> Any:
        return client.create_model_version(name, source, run_id=run_id, tags=tags, description=note)

    try:
        version = create(uri)
    except MlflowException:  # a tracking server refuses local paths
        version = create(f"runs:/{run_id}/{storage.MODEL}")
    client.set_logged_model_tags(
        model.model_id, {"rayonale.registered": f"{name}/{version.version}"}
    )
    return {
        "name": name,
        "version": int(version.version),
        "model_id": model.model_id,
        "uri": uri,
    }


def _safe(name: str) -> str:
    return re.sub(r"[/:@]", "-", name)  # these have a meaning in models:/name/version


def _known(client: Any, name: str) -> bool:
    return any(m.name == name for m in client.search_registered_models(f"name = '{name}'"))


def registered_model_folder(ref: str, runs: str = "runs") -> str:
    """Folder of a registered model.

    Args:
        ref: `models:/name/version`, `models:/name@alias` or `models:/m-<id of a logged model>`.

    Raises:
        ValueError: no such model or version (the message lists what there is), or its folder
            is gone.
    """
    folder = _folder_of(version_of(ref, runs))
    if not storage.exists(storage.join(folder, "config.json")):
        raise ValueError(f"{ref}: registered at {folder}, where there is no model (any more)")
    return folder


def promote(ref: str, alias: str, runs: str = "runs") -> tuple[int | None, int]:
    """Let an alias name a version; what serves by that alias follows.

    Args:
        ref: `models:/name/version`, or `models:/name` for the newest version.

    Returns:
        The version that the alias named before (None for none), and the one it names now.

    Raises:
        ValueError: no such model or version, its folder is gone, or the alias is not a name.
    """
    from mlflow.exceptions import MlflowException

    from rayonale.lineage import tracking

    client = tracking.client_of(tracking.default_uri(runs))
    name = ref.removeprefix("models:/")
    if ref.startswith("models:/") and "/" not in name and "@" not in name:
        found = client.search_model_versions(f"name = '{name}'")
        if not found:
            raise ValueError(f"{ref}: no registered model of that name has a version")
        ref = f"{ref}/{max(int(each.version) for each in found)}"
    registered_model_folder(ref, runs)
    version = version_of(ref, runs)
    before = client.get_registered_model(version.name).aliases.get(alias)
    try:
        client.set_registered_model_alias(version.name, alias, version.version)
    except MlflowException as error:
        raise ValueError(f"alias {alias!r}: {error.message}") from error
    return (None if before is None else int(before)), int(version.version)


def version_of(ref: str, runs: str = "runs") -> Any:
    """The MLflow model version (or logged model) that a reference names; see above.

    Raises:
        ValueError: no such model or version.
    """
    from rayonale.lineage import tracking

    uri = tracking.default_uri(runs)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise ValueError(
            f"{ref}: no MLflow data at {uri}; run where the runs folder is, or set "
            "MLFLOW_TRACKING_URI"
        )
    client = tracking.client_of(uri)
    from mlflow.exceptions import MlflowException

    if found := _MODEL_ID.match(ref):
        try:
            return client.get_logged_model(found["id"])
        except MlflowException as error:
            raise ValueError(f"{ref}: no such logged model in {uri}") from error
    found = _REF.match(ref)
    if not found:
        raise ValueError(f"{ref}: expected models:/name/version, models:/name@alias or models:/id")
    try:
        if found["version"]:
            return client.get_model_version(found["name"], found["version"])
        return client.get_model_version_by_alias(found["name"], found["alias"])
    except MlflowException as error:
        raise ValueError(f"{ref}: not registered in {uri}; {_choices(client, found)}") from error


def _choices(client: Any, found: re.Match[str]) -> str:
    from rayonale.recipe import near

    names = [model.name for model in client.search_registered_models(max_results=1_000)]
    if found["name"] not in names:
        listed = ", ".join(names[:20]) or "none"
        return f"registered models: {listed}{near(found['name'], names)}"
    versions = client.search_model_versions(f"name = '{found['name']}'")
    aliases = client.get_registered_model(found["name"]).aliases
    told = ", ".join(map(str, sorted(int(v.version) for v in versions)))
    return f"versions: {told or 'none'}; aliases: {', '.join(aliases) or 'none'}"


def _folder_of(version: Any) -> str:
    given = version.tags.get("rayonale.uri") or getattr(version, "source", "") or ""
    parsed = urlparse(given)
    return parsed.path if parsed.scheme == "file" else str(given)
