"""How `training.py` runs a side: data and settings that all share, a process for each run."""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import training_data

ROOT = Path(__file__).resolve().parent.parent
HH = "hh_rlhf/helpful_base_train1200.jsonl"
LOSSES: dict[str, dict[str, Any]] = {
    "dpo": {"name": "dpo", "beta": 0.1},
    "cpo": {"name": "cpo"},  # DPO's work without a reference pass
    "rdpo": {
        "name": "rdpo",
        "beta": 0.1,
        "gamma": 0.5,
        "form": "paper",
        "reduction": "mean",
    },
}


def port() -> str:
    """A free port for the workers to meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


class Bench:
    """Folder, data and settings that all measurements share."""

    def __init__(self, folder: Path, arguments: argparse.Namespace, short: tuple[int, ...]) -> None:
        self.folder, self.arguments, self.count = folder, arguments, 0
        self.paths = training_data.build(
            folder, arguments.data / HH, arguments.rows, short, arguments.rationale
        )  # fmt: skip
        self.common = {
            "model": self.paths["model"],
            "batch_pairs": 32,
            "learning_rate": 1e-5,
            "dtype": arguments.dtype,
            "threads": arguments.threads,
        }

    def spec(self, data: str, loss: str, **options: Any) -> Path:
        """A side's specification in a file."""
        self.count += 1
        file = self.folder / f"spec-{self.count}.json"
        found = {**self.common, "shard": self.paths[data], "loss": LOSSES[loss], **options}
        file.write_text(json.dumps({"steps": None} | found))
        return file

    def start(self, side: str, spec: Path, rank: int = 0, world: int = 1, meet: str = "") -> Any:
        """A process of a side."""
        paths = [str(ROOT / "platform"), str(ROOT / "benchmarks")]
        if side == "trl":
            paths.insert(0, str(self.arguments.parity / "1.16.0"))
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": str(self.arguments.threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "HF_HUB_OFFLINE": "1",
            "TRL_EXPERIMENTAL_SILENCE": "1",
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": meet or port(),
        }
        script = str(ROOT / "benchmarks" / f"training_{side}.py")
        return subprocess.Popen(
            [sys.executable, script, str(spec)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, side: str, data: str, loss: str, **options: Any) -> dict[str, Any]:
        """One side from start to end."""
        return answer(self.start(side, self.spec(data, loss, **options)))


def answer(process: Any) -> dict[str, Any]:
    """What a side printed; `rate` in pairs/s is added.

    Raises:
        RuntimeError: it failed.
    """
    out, told = process.communicate()
    for line in out.splitlines():
        if line.startswith("SIDE "):
            found: dict[str, Any] = json.loads(line.removeprefix("SIDE "))
            seconds = found["reference_seconds"] + found["train_seconds"]
            return found | {"rate": found["pairs"] / seconds}
    if process.returncode:
        raise RuntimeError(f"a side failed:\n{told[-3_000:]}")
    return {}
