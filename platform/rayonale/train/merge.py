"""Stage `merge`: several models of one architecture → one, by their weights.

judge of scores ─┐
judge of pairs  ─┴─ 0.5 θ₁ + 0.5 θ₂ ─► model/
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from rayonale import models, storage
from rayonale.stages import Reads, Settings, Stage, StageContext, StageOutput, StageResult
from rayonale.train import estimates


class MergeSettings(Settings):
    """Settings of the `merge` stage.

    Attributes:
        method: `linear` is the weighted sum of all tensors.
        weights: one for each model read, in their order; None weighs them alike.
        normalise: refuse weights that do not add up to 1; false takes any (task arithmetic).
        models: further models, after those that are read as stages.
    """

    method: Literal["linear"] = "linear"
    weights: tuple[float, ...] | None = None
    normalise: bool = True
    models: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _weights_add_up(self) -> MergeSettings:
        if self.weights and self.normalise and abs(sum(self.weights) - 1) > 1e-6:
            raise ValueError(
                f"weights: found {list(self.weights)}, which add up to {sum(self.weights):g}; "
                "expected 1, or normalise: false"
            )
        return self

    def given(self, count: int) -> tuple[float, ...]:
        """A weight for each of `count` models.

        Raises:
            ValueError: another number of weights.
        """
        if self.weights is None:
            return (1 / count,) * count
        if len(self.weights) != count:
            raise ValueError(f"weights: found {len(self.weights)} for {count} models")
        return self.weights


def run(context: StageContext, settings: MergeSettings) -> StageResult:
    """Merge models.

    Raises:
        ValueError: fewer than two models, or models that do not fit together.
    """
    from rayonale.train import merging
    from rayonale.train.export import put

    read: list[StageOutput] = context.inputs.get("models") or []
    refs = [output.model for output in read] + list(settings.models)
    if len(refs) < 2:
        raise ValueError(f"stages.{context.name}: found {len(refs)} model(s), expected two or more")
    weights = settings.given(len(refs))
    folders = [local_folder(ref) for ref in refs]
    with tempfile.TemporaryDirectory(prefix="rayonale-merge-") as place:
        path = Path(place) / "model"
        counted = merging.merge(folders, weights, path)
        parts = [
            f"- {w:g} × {name}" for w, name in zip(weights, _names(read, settings), strict=True)
        ]
        card = ["# A linear merge of models", "", *parts, "", f"Stage {context.name}, fingerprint "
                f"{context.fingerprint}."]  # fmt: skip
        (path / "README.md").write_text("\n".join(card) + "\n", encoding="utf-8")
        put(path, storage.join(context.out, storage.MODEL))
    return StageResult(
        metrics={name: float(count) for name, count in counted.items()},
        details={"weights": dict(zip(_names(read, settings), weights, strict=True))},
    )


def _names(read: list[StageOutput], settings: MergeSettings) -> list[str]:
    return [output.name for output in read] + list(settings.models)


def local_folder(ref: str) -> Path:
    """Folder of a model; one of the hub is downloaded first."""
    found = models.resolve(ref)
    if Path(found).is_dir():
        return Path(found)
    from huggingface_hub import snapshot_download

    name, revision = models.revision(found)
    kept = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]
    return Path(snapshot_download(name, revision=revision, allow_patterns=kept))


def _external(settings: MergeSettings) -> dict[str, str]:
    return {f"model:{ref}": models.fingerprint(ref) for ref in settings.models}


STAGE = Stage(
    kind="merge",
    settings=MergeSettings,
    run=run,
    reads={"models": Reads("model", many=True, optional=True)},
    gives=("model",),
    sources=lambda settings: ["module:rayonale.train.merging"],
    external_inputs=_external,
    estimate=estimates.merge,
)
