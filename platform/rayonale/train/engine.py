"""DeepSpeed: the one place that knows its configuration.

Gradient accumulation is ours (`managed_gradient_accumulation: false`): every `step()` is the
boundary, because the number of micro-batches of a step follows the rows' lengths.
"""

from __future__ import annotations

import ctypes
import os
import random
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import nn

from rayonale.train.settings import TrainSettings

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers of these options of mallopt
NO_CLIP = 1e30  # not 0, at which DeepSpeed does not look at gradients at all


def config(settings: TrainSettings, world: int) -> dict[str, Any]:
    """DeepSpeed's configuration."""
    zero: dict[str, Any] = {"stage": settings.zero_stage, "overlap_comm": False}
    if settings.zero_stage == 3:
        # Kept whole below these sizes: gathering small weights costs more than it saves.
        zero |= {"stage3_param_persistence_threshold": 10_000}
    if settings.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if settings.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    found: dict[str, Any] = {
        "train_batch_size": world,  # unused: the loop counts rows itself
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": settings.clip or NO_CLIP,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": settings.dtype == "bfloat16"},
        "steps_per_print": 1 << 60,
        "wall_clock_breakdown": False,
    }
    if settings.dtype == "bfloat16":
        found["data_types"] = {"grad_accum_dtype": "fp32"}
    return found


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only: not on norms and biases."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def start(policy: nn.Module, settings: TrainSettings, world: int) -> Any:
    """A DeepSpeed engine around the policy."""
    import deepspeed

    # On a CPU it would compile its own shared-memory communication when first used, and stop
    # where there is no compiler; gloo does the same work.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    arguments = {
        "lr": settings.learning_rate,
        "betas": settings.betas,
        "eps": settings.epsilon,
        "weight_decay": settings.weight_decay,
    }
    if settings.offload == "none":
        groups = parameter_groups(policy, settings.weight_decay)
        optimizer: Any = torch.optim.AdamW(groups, **{**arguments, "weight_decay": 0.0})
        options: dict[str, Any] = {"optimizer": optimizer}
        configuration = config(settings, world)
    else:  # its own AdamW, which steps in main memory
        options = {"model_parameters": parameter_groups(policy, settings.weight_decay)}
        configuration = config(settings, world) | {
            "optimizer": {"type": "AdamW", "params": arguments}
        }
    engine, *_ = deepspeed.initialize(model=policy, config=configuration, **options)
    if settings.zero_stage == 0 and settings.dtype == "float32":
        _keep_norm(engine)
    return engine


def _keep_norm(engine: Any) -> None:
    """Without ZeRO and bfloat16 DeepSpeed clips but forgets the gradient's norm: keep it."""

    def clip() -> None:
        norm = nn.utils.clip_grad_norm_(engine.module.parameters(), engine.gradient_clipping())
        engine._global_grad_norm = float(norm)

    engine.clip_fp32_gradients = clip


def prepare_process(seed: int, rank: int, *, use_gpu: bool, threads: int) -> torch.device:
    """Set what DeepSpeed and torch read from the process; returns the worker's device."""
    if not use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
        torch.set_num_threads(threads)
        _keep_freed_memory()
    for number in (seed, rank):
        assert number >= 0
    torch.manual_seed(seed * 1_000_003 + rank)
    np.random.seed((seed * 1_000_003 + rank) % (1 << 32))
    random.seed(seed * 1_000_003 + rank)
    if not use_gpu:
        return torch.device("cpu")
    if "TORCHELASTIC_RUN_ID" in os.environ:  # started by torchrun
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    import ray.train.torch

    return ray.train.torch.get_device()


def _keep_freed_memory() -> None:
    """Let the C library keep what tensors free, for the next ones.

    Each large tensor is otherwise mapped afresh and cleared page by page by the system, which took
    a tenth of a training's time. Peak memory was seen unchanged. Other C libraries than glibc keep
    their way.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        for option, value in ((_MMAP_THRESHOLD, 1 << 30), (_TRIM_THRESHOLD, (1 << 31) - 1)):
            library.mallopt(option, value)


def gathered(model: nn.Module, *, keep: bool) -> dict[str, torch.Tensor]:
    """Full weights on the CPU, whatever the ZeRO stage; empty where `keep` is False.

    Collective: under ZeRO 3 every worker takes part, one parameter at a time.
    """
    import deepspeed

    found: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        partitioned = [parameter] if hasattr(parameter, "ds_id") else []
        with deepspeed.zero.GatheredParameters(partitioned, enabled=bool(partitioned)):
            if keep:
                found[name] = parameter.detach().to("cpu", copy=True)
    if keep:
        found |= {name: b.detach().to("cpu", copy=True) for name, b in _saved_buffers(model)}
        empty = [name for name, tensor in found.items() if tensor.numel() == 0]
        assert not empty, f"weights gathered empty: {empty[:5]}"
    return found


def _saved_buffers(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    saved = set(model.state_dict().keys())
    return [(name, buffer) for name, buffer in model.named_buffers() if name in saved]
