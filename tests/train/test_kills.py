"""The driver killed in the middle of training: the same command goes on onto the same curve."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from rayonale import storage
from rayonale.train import history


def start(rows: str, out: Path, settings: Path) -> subprocess.Popen:
    script = str(Path(__file__).parent / "train_driver.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen(
        [sys.executable, script, rows, str(out), str(settings)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def scored(rows: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The pairs with stored rewards, which DRDO reads."""
    folder = str(tmp_path_factory.mktemp("scored"))
    schema = storage.schema(rows).remove_metadata()
    for name in ("reward_chosen", "reward_rejected"):
        schema = schema.append(pa.field(name, pa.float64()))
    draw = random.Random(0)
    storage.write_rows(
        folder,
        (
            {**row, "reward_chosen": draw.gauss(1, 1), "reward_rejected": draw.gauss(0, 1)}
            for row in storage.read_rows(rows)
        ),
        schema,
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["sft", "bradley_terry", "drdo"])
def test_killed_driver_goes_on_onto_the_same_curve(
    scored: str, micro_model: str, tmp_path: Path, loss: str
) -> None:
    """A policy, an oracle with its head, and a student with a head that is dropped at the end."""
    rows = scored
    settings = tmp_path / "settings.json"
    settings.write_text(
        json.dumps(
            {
                "model": micro_model,
                "loss": {"name": loss},
                "max_steps": 300,
                "batch_pairs": 14,
                "learning_rate": 1e-3,
                "checkpoint_every": 50,
                "workers": 2,
                "zero_stage": 2,
            }
        )
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(rows, whole, settings).wait(240) == 0
    driver = start(rows, killed, settings)
    while not list(killed.glob("work/seed-0/checkpoints/checkpoint_*/progress.json")):
        assert driver.poll() is None
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    time.sleep(5)  # its Ray session ends with it
    before = history.read(str(killed / "work/seed-0/metrics.jsonl"))
    assert len(before) < 300
    assert start(rows, killed, settings).wait(240) == 0
    curves = [
        [(e["step"], e["loss"], e["grad_norm"]) for e in history.read(str(path))]
        for path in (folder / "work/seed-0/metrics.jsonl" for folder in (whole, killed))
    ]
    assert [step for step, _, _ in curves[0]] == list(range(300))
    assert curves[0] == curves[1]
    weights = [
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}
        for folder in (whole / "model", killed / "model")
    ]
    assert weights[0] == weights[1]
    assert len(weights[0]) == (3 if loss == "bradley_terry" else 1)  # LM, head, classifier
