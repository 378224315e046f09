"""Merged weights, by hand and on the embedded model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rayonale.stages import StageOutput
from rayonale.train import merging
from rayonale.train.merge import MergeSettings, run


def model(folder: Path, shards: dict[str, dict[str, torch.Tensor]], **config: Any) -> Path:
    folder.mkdir()
    for file, tensors in shards.items():
        save_file(tensors, folder / file)
    if len(shards) > 1:
        places = {name: file for file, tensors in shards.items() for name in tensors}
        (folder / merging.INDEX).write_text(json.dumps({"weight_map": places}))
    (folder / "config.json").write_text(json.dumps({"model_type": "tiny", **config}))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def weights(value: float, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {"a": torch.full((2, 3), value, dtype=dtype), "b": torch.full((3,), 10 * value)}


def one_file(folder: Path, value: float, **more: Any) -> Path:
    return model(folder, {merging.SINGLE: weights(value) | more.pop("also", {})}, **more)


def test_a_weighted_sum_over_different_shards(tmp_path: Path) -> None:
    """¼ · 1 + ¾ · 3 = 2.5; files and index are the first model's."""
    split = {"model-1.safetensors": {"a": torch.full((2, 3), 1.0)},
             "model-2.safetensors": {"b": torch.full((3,), 10.0)}}  # fmt: skip
    first = model(tmp_path / "one", split)
    second = one_file(tmp_path / "two", 3.0)
    counted = merging.merge([first, second], [0.25, 0.75], tmp_path / "out")
    assert counted == {"tensors": 2, "parameters": 9}
    found = {k: v for f in split for k, v in load_file(tmp_path / "out" / f).items()}
    assert found["a"].unique().tolist() == [2.5] and found["b"].unique().tolist() == [25.0]
    assert (tmp_path / "out" / merging.INDEX).is_file()
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_three_models_and_half_precision(tmp_path: Path) -> None:
    """Sums are float32: a third three times is the whole, in bfloat16 too."""
    folders = [
        model(
            tmp_path / str(n), {merging.SINGLE: {"a": torch.full((4,), 1.5, dtype=torch.bfloat16)}}
        )
        for n in range(3)
    ]
    merging.merge(folders, [1 / 3] * 3, tmp_path / "out")
    merged = load_file(tmp_path / "out" / merging.SINGLE)["a"]
    assert merged.dtype == torch.bfloat16 and merged.unique().tolist() == [1.5]


def test_models_that_do_not_fit_are_named(tmp_path: Path) -> None:
    first = one_file(tmp_path / "one", 1.0)

    def refused(match: str, other: Path) -> None:
        with pytest.raises(ValueError, match=match):
            merging.merge([first, other], [0.5, 0.5], tmp_path / "out")

    refused("c has shape", one_file(tmp_path / "more", 1.0, also={"c": torch.zeros(1)}))
    refused("b has shape", model(tmp_path / "less", {merging.SINGLE: {"a": torch.zeros(2, 3)}}))
    refused("a has shape", one_file(tmp_path / "wide", 1.0, also={"a": torch.zeros(2, 4)}))
    refused(r"config.json differs .* \['hidden'\]", one_file(tmp_path / "config", 1.0, hidden=8))
    other = one_file(tmp_path / "words", 1.0)
    (other / "tokenizer.json").write_text('{"x": 1}')
    refused("tokenizer.json differs", other)
    whole = one_file(tmp_path / "whole", 1.0, also={"n": torch.tensor([1])})
    with pytest.raises(ValueError, match="whole numbers"):
        merging.merge([whole, one_file(tmp_path / "n", 1.0, also={"n": torch.tensor([2])})],
                      [0.5, 0.5], tmp_path / "n_out")  # fmt: skip
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="expected safetensors"):
        merging.weights_of(tmp_path / "none")


def test_weights_are_checked() -> None:
    with pytest.raises(ValueError, match="add up to 0.9"):
        MergeSettings(weights=(0.5, 0.4))
    assert MergeSettings(weights=(1.0, 0.5), normalise=False).given(2) == (1.0, 0.5)
    assert MergeSettings().given(4) == (0.25,) * 4
    with pytest.raises(ValueError, match="found 2 for 3 models"):
        MergeSettings(weights=(0.5, 0.5)).given(3)


def test_the_stage_gives_a_model_that_loads(tinyworld_model: Path, tmp_path: Path) -> None:
    """The embedded model and one whose weights are doubled: halfway, 1.5 times the weights."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    other = tmp_path / "other"
    shutil.copytree(tinyworld_model, other)
    tensors = load_file(other / merging.SINGLE)
    save_file({k: 2 * v for k, v in tensors.items()}, other / merging.SINGLE, {"format": "pt"})
    read = [StageOutput(path.name, str(path), "f") for path in (tinyworld_model, other)]
    where: Any = SimpleNamespace(
        name="merged", out=str(tmp_path / "out"), inputs={"models": read}, fingerprint="f"
    )
    result = run(where, MergeSettings())
    assert result.metrics["tensors"] == len(tensors)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")
    AutoTokenizer.from_pretrained(tmp_path / "out" / "model")
    for name, tensor in merged.state_dict().items():
        if name in tensors:
            assert torch.allclose(tensor.float(), 1.5 * tensors[name].float(), rtol=1e-2), name
    assert "0.5 × base" in (tmp_path / "out" / "model" / "README.md").read_text()
    with pytest.raises(ValueError, match="found 1 model"):
        run(SimpleNamespace(name="m", out="", inputs={"models": read[:1]}), MergeSettings())  # type: ignore[arg-type]
