"""Checkpoints, through Ray Train or in a folder: all that a run needs to go on as if never stopped.

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
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from rayonale.train import resharding
from rayonale.train.loop import Progress

STATE = "state"
_PROBE = 1 << 20  # bytes
# How torch's own writer fails, which is no OSError.
_WRITING = re.compile(r"PytorchStreamWriter|inline_container|iostream error")


def save(engine: Any, progress: Progress, *, rank: int, world: int) -> None:
    """Write a checkpoint; every worker calls it at the same step.

    Raises:
        OSError: the disk is full or not writable; names the step, keeps the last checkpoint.
    """
    import ray.train

    with (
        tempfile.TemporaryDirectory(prefix="rayonale-checkpoint-") as folder,
        _telling(progress, Path(folder)),
    ):
        write(engine, progress, folder, rank=rank, world=world)
        ray.train.report(
            {"step": progress.step}, checkpoint=ray.train.Checkpoint.from_directory(folder)
        )


@contextmanager
def _telling(progress: Progress, folder: Path) -> Iterator[None]:
    """Name the step and the remedy where a checkpoint cannot be written into `folder`."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        number = error.errno if isinstance(error, OSError) else _number(error, folder)
        if number is None:
            raise
        what = "the disk is full" if number == errno.ENOSPC else str(error)
        raise OSError(
            number,
            f"step {progress.step}: the checkpoint could not be written: {what}. The last "
            "checkpoint is intact: make room (or lower keep_checkpoints) and start again",
        ) from error


def _number(error: RuntimeError, folder: Path) -> int | None:
    """The system's error number behind torch's own writer, which keeps it to itself.

    Found by writing a little beside what it could not finish. None when it was not the writer.
    """
    if not _WRITING.search(str(error)):
        return None
    try:
        (folder / ".probe").write_bytes(bytes(_PROBE))
    except OSError as found:
        return found.errno
    return errno.EIO


def write(engine: Any, progress: Progress, folder: str, *, rank: int, world: int) -> None:
    """This worker's part of a checkpoint, into a folder of its own or a shared one."""
    # Weights that are not trained (LoRA) are in the model that training starts from.
    engine.save_checkpoint(folder, tag=STATE, exclude_frozen_parameters=True)
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
    """Restore what `write` wrote, on any number of workers; every worker calls it.

    Raises:
        ValueError: another number of workers wrote it, and its parts cannot be put together.
    """
    state = json.loads((Path(folder) / "progress.json").read_text())
    before = state.pop("world")
    if before == world:
        engine.load_checkpoint(folder, tag=STATE, load_module_strict=resharding.is_whole(engine))
    else:
        resharding.load(engine, Path(folder), STATE, before=before, world=world)
    mine = Path(folder) / f"process-{rank}.pt"
    if mine.exists():  # a worker more than before keeps the generators that it started with
        _restore(torch.load(mine, weights_only=False))
    return Progress(**state)


def save_folder(
    engine: Any, progress: Progress, place: Path, *, keep: int, rank: int, world: int
) -> None:
    """Write a checkpoint into a local folder that all workers share, without Ray.

    It gets its name when all parts are there; the `keep` newest stay.

    Raises:
        OSError: as `save`.
    """
    incoming = place / ".incoming"
    with _telling(progress, place):
        if rank == 0:
            shutil.rmtree(incoming, ignore_errors=True)
            incoming.mkdir(parents=True)
        _meet()
        write(engine, progress, str(incoming), rank=rank, world=world)
    _meet()
    if rank == 0:
        incoming.rename(place / f"step-{progress.step:08d}")
        for old in _folders(place)[:-keep]:
            shutil.rmtree(old)
    _meet()


def load_folder(engine: Any, place: Path, *, rank: int, world: int) -> Progress:
    """Take up the newest checkpoint of `save_folder`, if there is one; see `read`."""
    found = _folders(place)
    return read(engine, str(found[-1]), rank=rank, world=world) if found else Progress()


def _folders(place: Path) -> list[Path]:
    return sorted(place.glob("step-*"))


def _meet() -> None:
    if dist.is_initialized():
        dist.barrier()


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
