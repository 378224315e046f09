"""Failures name the step and the remedy, and leave the last checkpoint as it was."""

import errno
import gc
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rayonale.train import checkpoints, failures
from rayonale.train.loop import Progress
from rayonale.train.settings import LoRA, TrainSettings

STEP_4 = "step 4: the checkpoint could not be written: the disk is full. The last checkpoint is "


class Engine:
    """Saves and loads one tensor with torch's own writer."""

    def __init__(self, size: int) -> None:
        self.state = torch.zeros(size)

    def save_checkpoint(self, folder: str, tag: str, exclude_frozen_parameters: bool) -> None:
        torch.save(self.state, Path(folder) / f"{tag}.pt")

    def load_checkpoint(self, folder: str, tag: str, load_module_strict: bool) -> None:
        self.state = torch.load(Path(folder) / f"{tag}.pt")

    @property
    def module(self) -> torch.nn.Module:
        return torch.nn.Linear(1, 1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def save(engine: Engine, step: int, place: Path) -> None:
    progress = Progress(step=step)
    checkpoints.save_folder(engine, progress, place, keep=2, rank=0, world=1)  # type: ignore[arg-type]


def test_a_full_disk(small_disk: Path) -> None:
    """The second checkpoint is too large: torch's writer fails in the middle of the file."""
    save(Engine(1_000), 2, small_disk)
    with pytest.raises(OSError, match=STEP_4) as error:
        save(Engine(1_000_000), 4, small_disk)
    assert error.value.errno == errno.ENOSPC
    del error
    gc.collect()  # torch's writer, in the traceback, has the removed file open
    engine = Engine(1)
    assert checkpoints.load_folder(engine, small_disk, rank=0, world=1).step == 2
    assert len(engine.state) == 1_000
    save(Engine(1_000), 6, small_disk)  # there is room again: what was half written is gone
    assert checkpoints.load_folder(engine, small_disk, rank=0, world=1).step == 6


def test_a_disk_that_is_full_for_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(Engine(10), 2, tmp_path)

    def full(self: Path, *_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match=STEP_4):
            save(Engine(10), 4, tmp_path)
    assert checkpoints.load_folder(Engine(1), tmp_path, rank=0, world=1).step == 2


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (2, 4, 6, 10):
        save(Engine(10), step, tmp_path)
    kept = ["step-00000006", "step-00000010"]
    assert sorted(folder.name for folder in tmp_path.iterdir()) == kept
    state = json.loads((tmp_path / kept[1] / "progress.json").read_text())
    assert (state["step"], state["world"]) == (10, 1)


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    engine = Engine(10)
    engine.save_checkpoint = lambda *_, **__: int("x")  # type: ignore[method-assign,assignment]
    with pytest.raises(ValueError, match="invalid literal"):
        save(engine, 2, tmp_path)


def test_memory_that_ran_out() -> None:
    settings = TrainSettings(loss="sft", micro_batch_tokens=4_096)
    with pytest.raises(MemoryError) as error, failures.naming_memory(7, settings):
        torch.empty(1 << 60)
    assert str(error.value).startswith("step 7: memory ran out (")
    assert "DefaultCPUAllocator" in str(error.value)
    assert "The last checkpoint is intact. Remedies: a lower micro_batch_tokens (now 4096), " in (
        str(error.value)
    )


def test_memory_of_a_gpu() -> None:
    with (
        pytest.raises(MemoryError, match="step 0: memory ran out"),
        failures.naming_memory(0, TrainSettings(loss="sft")),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def test_other_errors_of_a_step() -> None:
    with (
        pytest.raises(RuntimeError, match="shapes"),
        failures.naming_memory(0, TrainSettings(loss="sft")),
    ):
        raise RuntimeError("shapes do not fit")


def test_remedies_are_those_not_taken_yet() -> None:
    settings = TrainSettings(
        loss="sft",
        micro_batch_pairs=1,
        gradient_checkpointing=True,
        zero_stage=3,
        lora=LoRA(),
        max_length=512,
    )
    assert failures.remedies(settings) == ["a lower max_length (now 512)"]
