"""Small models that the tests of serving need, made from the embedded one."""

from __future__ import annotations

import shutil
from pathlib import Path


def make_oracle(base: Path, folder: Path, seed: int = 1) -> Path:
    """A reward model on the embedded model, whose rewards are large enough to tell apart."""
    from rayonale.train import classifier, reward_head
    from rayonale.train.policy import load_model
    from rayonale.train.settings import RewardHeadSettings

    shutil.copytree(base, folder)
    model = load_model(str(base), "float32", 2_048)
    head = reward_head.make(model, RewardHeadSettings(std=0.3, seed=seed), 0, "")
    reward_head.save(head.weight.detach(), folder)
    classifier.write(folder, head.weight.detach(), folder / classifier.FOLDER)
    return folder


def make_policy(base: Path, folder: Path, scale: float) -> Path:
    """The embedded model with other weights: everything times `scale`, so it says other things."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    save_file({name: (each * scale) for name, each in tensors.items()}, file, {"format": "pt"})
    return folder


def make_adapter(base: Path, folder: Path, seed: int = 0) -> Path:
    """A LoRA adapter that changes what the embedded model says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(
        r=8, lora_alpha=64, target_modules=["q_proj", "v_proj"], init_lora_weights=False
    )
    get_peft_model(model, config).save_pretrained(folder)
    return folder
