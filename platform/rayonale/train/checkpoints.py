"""Checkpoints through Ray Train: everything that a run needs to go on as if never stopped.

    state/…            DeepSpeed: weights, optimiser, master weights, each worker its part
    process-<rank>.pt  random generators of each worker
    progress.json      step, best validation loss; settings that must not change

The data position is the step: the plan can be sought. Ray Train registers a checkpoint when
every worker's part has arrived, so a kill in the middle leaves the one before.
"""

from __future__ import annotations

import errno
import json
import random
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rayonale.train.loop import Progress


def save(engine: Any, progress: Progress, *, rank: int, world: int) -> None:
    """Write a checkpoint; every worker calls it at the same step.

    Raises:
        OSError: the disk is full or not writable; names the step, keeps the last checkpoint.
    """
    import ray.train

    try:
        with tempfile.TemporaryDirectory(prefix="rayonale-checkpoint-") as folder:
            write(engine, progress, folder, rank=rank, world=world)
            ray.train.report(
                {"step": progress.step}, checkpoint=ray.train.Checkpoint.from_directory(folder)
            )
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        raise OSError(
            error.errno or errno.EIO,
            f"step {progress.step}: the checkpoint could not be written: {what}. The last "
            "checkpoint is intact: make room (or lower keep_checkpoints) and start again",
        ) from error


def write(engine: Any, progress: Progress, folder: str, *, rank: int, world: int) -> None:
    """This worker's part of a checkpoint, into a folder of its own or a shared one."""
    engine.save_checkpoint(folder, tag="state")
    torch.save(_generators(), Path(folder) / f"process-{rank}.pt")
    if rank == 0:
        state = {**asdict(progress), "world": world}
        (Path(folder) / "progress.json").write_text(json.dumps(state))


def load(engine: Any, *, rank: int, world: int) -> Progress:
    """Take up the last checkpoint, if there is one; see `read`."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return Progress()
    with checkpoint.as_directory() as folder:
        return read(engine, folder, rank=rank, world=world)


def read(engine: Any, folder: str, *, rank: int, world: int) -> Progress:
    """Restore what `write` wrote.

    Raises:
        ValueError: it was written by another number of workers, whose parts do not fit.
    """
    state = json.loads((Path(folder) / "progress.json").read_text())
    before = state.pop("world")
    if before != world:
        raise ValueError(
            f"the checkpoint at step {state['step']} was written by {before} worker(s), this run "
            f"has {world}: start with {before}, or remove the stage's work folder to begin anew"
        )
    engine.load_checkpoint(folder, tag="state")
    _restore(torch.load(Path(folder) / f"process-{rank}.pt", weights_only=False))
    return Progress(**state)


def _generators() -> dict[str, Any]:
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }


def _restore(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
