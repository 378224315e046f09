"""The arithmetic that estimates share: seconds out of tokens, and FLOPs out of parameters.

Kaplan et al. 2020: a forward pass takes 2·N FLOPs a token, backward twice that; what attention
adds is left out, so long contexts are estimated low.
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

from rayonale import models

FORWARD_FLOPS = 2.0
TRAIN_FLOPS = 6.0
TRAIN_FLOPS_RECOMPUTED = 8.0  # with gradient checkpointing the forward is done twice


def tokens_per_second(flops_per_token: float, peak_tflops: float, mfu: float) -> float:
    """Of one device.

    Args:
        peak_tflops: 10¹² FLOP/s of the device in the dtype used.
        mfu: share of it that the model's own FLOPs reach.
    """
    return peak_tflops * 1e12 * mfu / flops_per_token


def seconds(tokens: float, rate: float, devices: float = 1.0) -> float:
    """Time for tokens at a rate of each device."""
    return tokens / (rate * max(devices, 1.0))


def parameters(model: str) -> float | None:
    """Parameters of a model: from its files, else from its name ("Llama-3.1-8B"), else unknown."""
    folder = Path(models.resolve(model))
    if folder.is_dir():
        counted = sum(_in_safetensors(file) for file in sorted(folder.glob("*.safetensors")))
        if counted:
            return float(counted)
    told = re.findall(r"(?<![\w.])(\d+(?:\.\d+)?)[bB](?![a-zA-Z])", model.replace("-", " "))
    return float(told[-1]) * 1e9 if told else None


def _in_safetensors(file: Path) -> int:
    """Elements of all tensors, out of the header."""
    with file.open("rb") as handle:
        (size,) = struct.unpack("<Q", handle.read(8))
        header = json.loads(handle.read(size))
    total = 0
    for name, entry in header.items():
        if name != "__metadata__":
            count = 1
            for length in entry["shape"]:
                count *= length
            total += count
    return total
