"""The driver killed in the middle of training: the same command goes on onto the same curve."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_killed_driver_goes_on_onto_the_same_curve(
    rows: str, micro_model: str, tmp_path: Path
) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(
        json.dumps(
            {
                "model": micro_model,
                "loss": {"name": "sft"},
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
    weights = [(f / "model/model.safetensors").read_bytes() for f in (whole, killed)]
    assert weights[0] == weights[1]
