"""A checkpoint of so many workers, taken up by another number of workers.

DeepSpeed writes optimiser states and master weights in parts, one a worker, that only the same
number of workers can read. Its universal format holds them whole, by parameter; a checkpoint is
converted on every machine just before it is read, and only then.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch.distributed as dist
from torch import Tensor


def load(engine: Any, folder: Path, tag: str, *, before: int, world: int) -> None:
    """Restore an engine's state from `folder/tag`, written by `before` workers.

    The data order does not depend on the number of workers. Sums are taken in another order, so
    numbers agree to rounding (1e-6 relative in float32), not to the digit.

    Raises:
        ValueError: DeepSpeed cannot convert this checkpoint.
    """
    if not engine.zero_optimization() and not engine.bfloat16_enabled():
        strict = is_whole(engine)  # nothing is split
        engine.load_checkpoint(str(folder), tag=tag, load_module_strict=strict)
        return
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0  # of this machine
    place = Path(tempfile.gettempdir()) / f"rayonale-universal-{_name(folder)}"
    try:
        failed = _convert(folder / tag, place / tag) if first else None
        _raise_together(failed, before, world)
        decay = [group["weight_decay"] for group in engine.optimizer.param_groups]
        engine._config.load_universal_checkpoint = True
        try:
            engine.load_checkpoint(str(place), tag=tag, load_module_strict=False)
        finally:
            engine._config.load_universal_checkpoint = False
        _mend(engine, decay)
        if dist.is_initialized():
            dist.barrier()  # all have read
    finally:
        if first:
            shutil.rmtree(place, ignore_errors=True)


def _mend(engine: Any, decay: list[float]) -> None:
    """Undo what DeepSpeed 0.19 does to AdamW when it reads the universal format at ZeRO-3.

    It gives all parameters one step counter, which each of them then counts up, and all groups
    the settings of the first one (weight decay also on norms).
    """
    inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
    for state in inner.state.values():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].clone()
    for group, value in zip(engine.optimizer.param_groups, decay, strict=True):
        group["weight_decay"] = value


def is_whole(engine: Any) -> bool:
    """Whether checkpoints hold all weights: those that are not trained (LoRA) are left out."""
    return all(parameter.requires_grad for parameter in engine.module.parameters())


def _name(folder: Path) -> str:
    """A name that all workers give to the same checkpoint, and no other run."""
    names: list[Any] = [f"{folder.name}-{os.getpid()}"]
    if dist.is_initialized():
        dist.broadcast_object_list(names, src=0)
    return str(names[0])


def _convert(source: Path, target: Path) -> str | None:
    """Write the universal form of a checkpoint; returns what went wrong."""
    from deepspeed.checkpoint import ds_to_universal

    shutil.rmtree(target.parent, ignore_errors=True)
    target.mkdir(parents=True)
    options = SimpleNamespace(
        input_folder=str(source),
        output_folder=str(target),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    heard = io.StringIO()
    try:
        with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
            ds_to_universal.main(options)
    except Exception as error:  # whatever it is, every worker must hear of it
        return f"{type(error).__name__}: {error}"
    return None


def _raise_together(failed: str | None, before: int, world: int) -> None:
    """The same error on every worker: one that went on alone would wait for ever."""
    told: list[str | None] = [failed]
    if dist.is_initialized():
        told = [None] * dist.get_world_size()
        dist.all_gather_object(told, failed)
    if reasons := [reason for reason in told if reason]:
        raise ValueError(
            f"the checkpoint was written by {before} worker(s), this run has {world}, and "
            f"DeepSpeed could not convert it ({reasons[0]}): start with {before}, or remove the "
            "stage's work folder to begin anew"
        )
