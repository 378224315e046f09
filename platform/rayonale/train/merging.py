"""Merging models by their weights: θ = Σ wᵢ θᵢ, one shard of safetensors at a time.

Wortsman et al. 2022 (arXiv 2203.05482); Prometheus 2 (arXiv 2405.01535) merges a judge of scores
with a judge of pairs so, as arXiv 2410.05495 does. Sums are float32, what is written has the first
model's dtype and files. Memory is one shard, whatever the number of models.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
# Keys of config.json that may differ between models that are merged.
_LOOSE = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache")


@dataclass(frozen=True)
class Weights:
    """Where a model's tensors lie: `files` maps a tensor's name to its file in `folder`."""

    folder: Path
    files: Mapping[str, str]

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """Tensors by name, a file opened once."""
        for file in dict.fromkeys(self.files[name] for name in names):
            with safe_open(self.folder / file, framework="pt") as opened:  # type: ignore[no-untyped-call]
                for name in names:
                    if self.files[name] == file:
                        yield name, opened.get_tensor(name)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor; none is loaded."""
        found: dict[str, tuple[int, ...]] = {}
        for file in dict.fromkeys(self.files.values()):
            with safe_open(self.folder / file, framework="pt") as opened:  # type: ignore[no-untyped-call]
                for name in opened.keys():  # noqa: SIM118 (no mapping)
                    found[name] = tuple(opened.get_slice(name).get_shape())
        return found


def weights_of(folder: Path) -> Weights:
    """The tensors of a Hugging Face folder.

    Raises:
        ValueError: it has no safetensors.
    """
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return Weights(folder, index["weight_map"])
    if not (folder / SINGLE).is_file():
        raise ValueError(f"{folder}: no {SINGLE} and no {INDEX}; expected safetensors")
    with safe_open(folder / SINGLE, framework="pt") as opened:  # type: ignore[no-untyped-call]
        return Weights(folder, dict.fromkeys(opened.keys(), SINGLE))


def merge(folders: Sequence[Path], weights: Sequence[float], out: Path) -> dict[str, Any]:
    """Write the weighted sum of models as a Hugging Face folder.

    Config, tokenizer and chat template are the first model's.

    Args:
        folders: models of one architecture and one tokenizer.
        weights: one a model.

    Returns:
        Counts of tensors and parameters.

    Raises:
        ValueError: the models do not fit together; the message names the first difference.
    """
    sources = [weights_of(folder) for folder in folders]
    check_alike(folders, [source.shapes() for source in sources])
    out.mkdir(parents=True)
    first = sources[0]
    counted = {"tensors": 0, "parameters": 0}
    for file in dict.fromkeys(first.files.values()):
        names = [name for name, where in first.files.items() if where == file]
        merged = _merged(sources, weights, names)
        counted["tensors"] += len(merged)
        counted["parameters"] += sum(tensor.numel() for tensor in merged.values())
        save_file(merged, out / file, metadata={"format": "pt"})
    for path in sorted(first.folder.iterdir()):
        weights_file = path.suffix in (".safetensors", ".bin")
        if path.is_file() and not weights_file and path.name != "README.md":
            shutil.copyfile(path, out / path.name)
    return counted


def _merged(
    sources: Sequence[Weights], weights: Sequence[float], names: Sequence[str]
) -> dict[str, Tensor]:
    """Tensors of one shard: float32 sums in the first model's dtype; whole numbers are kept."""
    total: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    for source, weight in zip(sources, weights, strict=True):
        for name, tensor in source.read(names):
            if not tensor.is_floating_point():
                if not torch.equal(total.setdefault(name, tensor), tensor):
                    raise ValueError(f"{source.folder}: {name} holds whole numbers and differs")
                dtypes[name] = tensor.dtype
            elif name not in total:
                dtypes[name] = tensor.dtype
                total[name] = tensor.float() * weight
            else:
                total[name] += tensor.float() * weight
    return {name: tensor.to(dtypes[name]).contiguous() for name, tensor in total.items()}


def check_alike(folders: Sequence[Path], shapes: Sequence[Mapping[str, tuple[int, ...]]]) -> None:
    """Refuse models that have other tensors, shapes, settings or tokens than the first.

    Raises:
        ValueError: names the model, what was found and what the first has.
    """
    for folder, found in zip(folders[1:], shapes[1:], strict=True):
        for name in sorted(shapes[0].keys() | found.keys()):
            here, there = found.get(name), shapes[0].get(name)
            if here != there:
                raise ValueError(
                    f"{folder}: {name} has shape {here}, in {folders[0]} {there}; expected models "
                    "of one architecture"
                )
        if (ours := _config(folder)) != (theirs := _config(folders[0])):
            keys = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
            raise ValueError(f"{folder}: config.json differs from {folders[0]} in {keys}")
        for name in ("tokenizer.json", "tokenizer.model"):
            files = [folder / name, folders[0] / name]
            texts = [file.read_bytes() if file.is_file() else None for file in files]
            if texts[0] != texts[1]:
                raise ValueError(f"{folder}: {name} differs from that of {folders[0]}")


def _config(folder: Path) -> dict[str, Any]:
    told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {key: value for key, value in told.items() if key not in _LOOSE}
