"""The loop under torchrun, without Ray; a checkpoint taken up by another number of processes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rayonale.train import history, shards, torchrun
from rayonale.train.examples import Encoding
from rayonale.train.settings import TrainSettings
from rayonale.train.work import Job

BASE = {
    "loss": "sft",
    "max_steps": 6,
    "batch_pairs": 15,
    "micro_batch_pairs": 4,
    "learning_rate": 1e-3,
    "weight_decay": 0.01,
    "clip": 0.5,
    "schedule": "constant",
    "checkpoint_every": 3,
    "keep_checkpoints": 1,
}


@pytest.fixture(scope="module")
def shard(micro_model: str, rows: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("tokens"))
    (found,) = shards.tokenise(rows, "train", None, Encoding(micro_model, ("chosen",)), out)
    return found


@pytest.fixture(scope="module")
def launched(
    micro_model: str, shard: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Run a job on so many processes, once for the same arguments; returns its work folder."""
    done: dict[tuple[object, ...], Path] = {}

    def launch(processes: int, after: Path | None = None, **options: object) -> Path:
        key = (processes, after, json.dumps(options))
        if key not in done:
            done[key] = folder = tmp_path_factory.mktemp("run")
            settings = TrainSettings(**(BASE | options)).model_dump_json()
            job = Job(settings, micro_model, [shard], [], 0, False, "unused", "unused", {})
            file = folder / "job.json"
            file.write_text(json.dumps(job.__dict__))
            if after is not None:  # its checkpoint of step 3, and the metrics up to it
                shutil.copytree(after / "checkpoints", folder / "checkpoints")
                shutil.copy(after / history.FILE, folder)
            torch_run(processes, file, "--work", folder, "--model", folder / "model")
        return done[key]

    return launch


def torch_run(processes: int, *arguments: object) -> None:
    """As a person would type it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), "-m", torchrun.__name__]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "OMP_NUM_THREADS": "1",
    }
    ran = subprocess.run(
        [*command, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3_000:]


def curve(folder: Path) -> list[tuple[int, float]]:
    return [(e["step"], e["loss"]) for e in history.read(str(folder / history.FILE))]


def test_two_processes_train_and_export(launched: Callable[..., Path]) -> None:
    folder = launched(2, zero_stage=1)
    assert [step for step, _ in curve(folder)] == list(range(6))
    assert curve(folder)[-1][1] < curve(folder)[0][1]
    assert (folder / "model" / "model.safetensors").exists()
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["step-00000003"]
    assert json.loads((folder / "result.json").read_text())["steps"] == 6


@pytest.mark.parametrize(
    ("before", "world", "options"),
    [
        (2, 1, {"zero_stage": 1}),
        (1, 2, {"zero_stage": 1}),
        pytest.param(2, 1, {"zero_stage": 0}, marks=pytest.mark.slow),
        pytest.param(2, 1, {"zero_stage": 2}, marks=pytest.mark.slow),
        pytest.param(2, 1, {"zero_stage": 3}, marks=pytest.mark.slow),
        pytest.param(1, 2, {"zero_stage": 3}, marks=pytest.mark.slow),
        pytest.param(2, 1, {"zero_stage": 1, "lora": {"r": 4}}, marks=pytest.mark.slow),
        pytest.param(2, 1, {"zero_stage": 1, "dtype": "bfloat16"}, marks=pytest.mark.slow),
    ],
)
def test_goes_on_with_another_number_of_processes(
    launched: Callable[..., Path], before: int, world: int, options: dict[str, object]
) -> None:
    """Same data order, and numbers equal but for the order of sums (float32: 1e-6 relative)."""
    whole = launched(before, **options)
    resumed = launched(world, after=whole, **options)
    near = 1e-6 if options.get("dtype") != "bfloat16" else 1e-2
    assert curve(resumed)[:3] == curve(whole)[:3]  # not computed again
    losses = [[loss for _, loss in curve(folder)[3:]] for folder in (resumed, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=near)
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (resumed, whole)]
    for name, wanted in weights[1].items():
        scale = wanted.float().abs().max().item()
        difference = (weights[0][name] - wanted).float().abs().max().item()
        assert difference <= 30 * near * scale, name


def test_work_must_be_a_local_folder(micro_model: str, shard: str) -> None:
    settings = TrainSettings(**BASE).model_dump_json()
    job = Job(settings, micro_model, [shard], [], 0, False, "s3://bucket/x", "unused", {})
    with pytest.raises(ValueError, match="found s3://bucket/x, expected a local folder"):
        torchrun.run(job)
