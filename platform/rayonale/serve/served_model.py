"""Which model is served now: a name resolved to a folder, a version and a fingerprint.

    models:/dpo@champion ── look every few seconds ─► version 3 ─► version 4
                                                        └ loaded in place, between two requests

A new version of the same architecture and tokenizer takes the place of the old one in the running
engine. Any other needs replicas of its own: it is told in the log and in the metrics, the old one
is served on, and `serve deploy` of the same file brings it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayonale import models
from rayonale.generate.engine_arguments import architecture
from rayonale.generate.settings import Weights


@dataclass(frozen=True)
class ServedModel:
    """What answers name.

    Attributes:
        ref: as the deployment file names it.
        path: folder, or hub name.
        version: `name/3` of a registered model; None for a folder.
        fingerprint: hash of its files (32 hex digits).
    """

    ref: str
    path: str
    version: str | None
    fingerprint: str

    @property
    def weights(self) -> Weights:
        """For the engine."""
        return Weights(self.path, self.fingerprint)

    @property
    def told(self) -> str:
        """Version and fingerprint in a word: OpenAI's `system_fingerprint`."""
        return f"{self.version or 'model'}:{self.fingerprint[:16]}"


def resolve(ref: str, registry: str | None = None) -> ServedModel:
    """Look a model up.

    Args:
        registry: MLflow's tracking URI.

    Raises:
        ValueError: there is none of that name, or its folder is gone.
    """
    version = None
    if ref.startswith("models:/"):
        if registry:
            os.environ["MLFLOW_TRACKING_URI"] = registry
        from rayonale.lineage import registered_models

        path = registered_models.registered_model_folder(ref)
        found = registered_models.version_of(ref)
        version = f"{found.name}/{getattr(found, 'version', found.name)}"
    else:
        path = models.resolve(ref)
    return ServedModel(ref, path, version, models.fingerprint(path))


def require_safetensors(path: str) -> None:
    """Refuse weights that may run code when they are loaded.

    Raises:
        ValueError: the folder has no safetensors, or it is no folder (nothing is known of it).
    """
    if not any(Path(path).glob("*.safetensors")):
        raise ValueError(
            f"{path}: no *.safetensors here; expected a folder with them, or pickled_weights: true "
            "for a model that you trust"
        )


def follows(ref: str) -> bool:
    """Whether the model behind a name can change: it is an alias."""
    return ref.startswith("models:/") and "@" in ref


def fits(old: ServedModel, new: ServedModel) -> str | None:
    """Why a model cannot take another's place in a running engine; None when it can.

    Its weights are compared by name, shape and type before the engine is touched: an engine that
    failed in the middle of loading would have to be started anew, with the same bad model.
    """
    if architecture(old.path) != architecture(new.path):
        return "its architecture or tokenizer is another one"
    try:
        expected, found = tensors(old.path), tensors(new.path)
    except (OSError, ValueError, KeyError) as error:
        return f"its weights cannot be read: {error}"
    if expected != found:
        names = sorted(set(expected.items()) ^ set(found.items()))[:3]
        return f"its weights differ in name, shape or type: {names}"
    return None


def tensors(path: str) -> dict[str, Any]:
    """Name → (type, shape) of a folder's safetensors, from their headers alone."""
    found: dict[str, Any] = {}
    for file in sorted(Path(path).glob("*.safetensors")):
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > size:
                raise ValueError(f"{file.name} is cut off")
            header = json.loads(opened.read(length))
        ends = [about["data_offsets"][1] for key, about in header.items() if key != "__metadata__"]
        if max(ends, default=0) + 8 + length != size:
            raise ValueError(f"{file.name} is cut off")
        for key, about in header.items():
            if key != "__metadata__":
                found[key] = (about["dtype"], tuple(about["shape"]))
    return found
