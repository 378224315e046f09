"""LoRA: adapters inside a model, what of it is saved, and merging them into plain weights.

    start ─ attach ─► weights (frozen) + adapters (trained) ─► model/adapter/  (peft's format)
                                                            └► merged ─► model/

The reference of a preference loss is the model without adapters. Its weights never change, so
log-probabilities computed ahead from the start hold during the whole run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rayonale.train.settings import LoRA

FOLDER = "adapter"
_NAME = ".default"  # peft's name of the only adapter
_PREFIX = "base_model.model."  # of names in peft's files


def config(lora: LoRA, start: str = "") -> Any:
    """peft's configuration; `start` names the weights that the adapter belongs to."""
    from peft import LoraConfig, TaskType

    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        base_model_name_or_path=start,
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # any number; peft says int
        lora_dropout=lora.dropout,
        target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
        bias="none",
    )


def attach(model: Any, lora: LoRA, seed: int) -> None:
    """Put adapters into a model and freeze everything else; the same ones on every worker.

    At the start they change nothing: the second of each pair of matrices is zero.

    Raises:
        ValueError: a target is not among the model's linear layers.
    """
    from peft import get_peft_model

    _check_targets(model, lora)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # In place: `model` itself has the adapters from now on.
        get_peft_model(model, config(lora, model.name_or_path), autocast_adapter_dtype=False)


def _check_targets(model: Any, lora: LoRA) -> None:
    if isinstance(lora.targets, str):
        return
    head = model.get_output_embeddings()
    names = {
        name.rpartition(".")[2]
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and part is not head
    }
    if unknown := sorted(set(lora.targets) - names):
        raise ValueError(
            f"lora.targets: found {', '.join(unknown)}; expected linear layers of "
            f"{type(model).__name__}: {', '.join(sorted(names))}, or all-linear"
        )


def is_adapter(name: str) -> bool:
    """Whether a parameter (by its name in the live model) belongs to an adapter."""
    return ".lora_" in name


@contextmanager
def off(model: nn.Module) -> Iterator[None]:
    """The model as its own reference: without adapters while the block runs."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [part for part in model.modules() if isinstance(part, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def save(weights: Mapping[str, Tensor], lora: LoRA, start: str, folder: Path) -> None:
    """Write adapters (names as in the live model) in the format that peft and vLLM load."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {_PREFIX + name.replace(_NAME, ""): t.contiguous() for name, t in weights.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config(lora, start).save_pretrained(folder)


def merged(model: Any, folder: Path) -> dict[str, Tensor]:
    """Weights of a plain model with a saved adapter added to them, by the plain model's names."""
    from peft import PeftModel

    plain = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()  # type: ignore[operator]
    return {name: tensor.detach() for name, tensor in plain.named_parameters()}


def quantisation(lora: LoRA | None, device: torch.device) -> Any:
    """Transformers' quantisation config for QLoRA, or None.

    Raises:
        ValueError: no CUDA device, or bitsandbytes is not installed.
    """
    if lora is None or lora.quantize is None:
        return None
    missing = []
    if device.type != "cuda":
        missing.append(f"a CUDA device (found {device.type})")
    if find_spec("bitsandbytes") is None:
        missing.append("the package bitsandbytes (not installed)")
    if missing:
        raise ValueError(
            f"lora.quantize: nf4 needs {' and '.join(missing)}; leave quantize out to train "
            "adapters beside weights in the compute dtype"
        )
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
