"""Random `kill -9`s over one training: the loss curve and the weights must not change.

    python benchmarks/kills.py                      20 kills, of the driver or of a worker
    python benchmarks/kills.py --kills 4 --steps 300

One training (two workers, ZeRO-2, tinyworld pairs and model, CPO) runs undisturbed, then once more
while processes are killed at random steps. A killed worker is Ray Train's to replace; a killed
driver is started again at once with the same command, while what it started is still dying.
Exit code 0 when both runs hold the same steps, losses, gradient norms and weights, to the digit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAIRS = 512
SETTINGS: dict[str, Any] = {
    "loss": "cpo",
    "batch_pairs": 16,
    "learning_rate": 1e-4,
    "checkpoint_every": 25,
    "workers": 2,
    "zero_stage": 2,
    "select": "last",
}


def write_pairs(folder: str) -> None:
    """Tinyworld pairs as rows."""
    from rayonale import records, storage, tinyworld

    def said(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    def row(number: int, raw: dict[str, Any]) -> dict[str, Any]:
        best, worst = ("a", "b") if raw["preferred"] == "a" else ("b", "a")
        return {
            "id": f"{number:032x}",
            "split": "train",
            "line": number + 1,
            "occurrence": 0,
            "prompt": said("user", raw["prompt"]),
            "chosen": said("assistant", raw[f"response_{best}"]),
            "rejected": said("assistant", raw[f"response_{worst}"]),
        }

    raws = tinyworld.generate_pairs(PAIRS, 11)
    storage.write_rows(folder, (row(i, raw) for i, raw in enumerate(raws)), records.PAIR)


def driver(rows: str, out: str, settings: str) -> None:
    """Train in this process's own Ray session; what is started and killed."""
    from rayonale import cluster
    from rayonale.stages import StageContext, StageOutput
    from rayonale.train import stage

    cluster.connect(num_cpus=2)
    run: Any = SimpleNamespace(log_metrics=lambda values, step=None: None)
    inputs = {"rows": StageOutput("rows", rows, "kills")}
    context = StageContext("train", out, inputs, None, "f" * 32, "c" * 32, run)
    stage.run(context, stage.TrainSettings(**json.loads(settings)))


@dataclass
class Training:
    """A training in a folder, and the process that drives it now."""

    rows: str
    out: Path
    settings: str
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    killed: list[tuple[str, int]] = field(default_factory=list)

    def start(self) -> None:
        """The same command each time."""
        self.starts += 1
        self.out.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, "--driver", self.rows, str(self.out), self.settings]
        with (self.out / f"driver-{self.starts}.log").open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    @property
    def entries(self) -> list[dict[str, Any]]:
        """Metrics of the steps so far."""
        from rayonale.train import history

        return history.read(str(self.out / "work/seed-0/metrics.jsonl"))

    def victim(self, who: str) -> int | None:
        """Process id of the driver, or of a random one of its training workers."""
        import psutil

        assert self.process is not None
        if who == "driver":
            return self.process.pid
        try:
            found = [
                child.pid
                for child in psutil.Process(self.process.pid).children(recursive=True)
                if "RayTrainWorker" in " ".join(child.cmdline())
            ]
        except psutil.Error:
            return None
        return random.choice(found) if found else None

    def kill(self, who: str, step: int) -> None:
        """`kill -9`; a driver is started again."""
        pid = self.victim(who)
        if pid is None:  # workers are starting
            return
        os.kill(pid, signal.SIGKILL)
        self.killed.append((who, step))
        print(f"  kill -9 {who:6} near step {step}", flush=True)
        if who == "driver":
            assert self.process is not None
            self.process.wait()
            self.start()


def train(training: Training, at: list[int], draw: random.Random) -> float:
    """Run to the end, with a kill as soon as each of the steps `at` is seen; returns seconds.

    Raises:
        RuntimeError: a driver failed that nobody killed.
    """
    started = time.monotonic()
    training.start()
    waiting, seen = sorted(at), -1
    while True:
        assert training.process is not None
        status = training.process.poll()
        if status == 0:
            return time.monotonic() - started
        if status is not None:
            log = (training.out / f"driver-{training.starts}.log").read_text(errors="replace")
            raise RuntimeError(f"the driver ended with {status}:\n{log[-3_000:]}")
        step = max((entry["step"] for entry in training.entries), default=-1)
        if waiting and step >= waiting[0] and step != seen:
            time.sleep(draw.uniform(0, 2))
            before = len(training.killed)
            training.kill(draw.choice(("driver", "worker")), step)
            if len(training.killed) > before:
                waiting.pop(0)
                seen = step  # the next one waits for another step: work that is really lost
        time.sleep(0.05)


def compared(whole: Training, killed: Training) -> dict[str, bool]:
    """What is equal between two runs, to the digit."""
    curves = [
        [(e["step"], e["loss"], e["grad_norm"], e["learning_rate"]) for e in run.entries]
        for run in (whole, killed)
    ]
    weights = [(run.out / "model/model.safetensors").read_bytes() for run in (whole, killed)]
    steps = [step for step, *_ in curves[1]]
    return {
        "every step once": steps == list(range(len(curves[0]))),
        "loss curve": curves[0] == curves[1],
        "final weights": weights[0] == weights[1],
    }


def main() -> int:
    """Run both, compare, print; the exit code tells whether all is equal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--driver", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1_200)
    parser.add_argument("--seed", type=int, default=0, help="of the kills' steps and victims")
    parser.add_argument("--folder", type=Path, help="kept; by default a temporary one")
    arguments = parser.parse_args()
    if arguments.driver:
        driver(*arguments.driver)
        return 0
    with tempfile.TemporaryDirectory(prefix="rayonale-kills-") as temporary:
        return measure(arguments.folder or Path(temporary), arguments)


def measure(folder: Path, arguments: argparse.Namespace) -> int:
    """The benchmark in a folder."""
    rows = str(folder / "rows")
    write_pairs(rows)
    draw = random.Random(arguments.seed)
    random.seed(arguments.seed)
    settings = {**SETTINGS, "max_steps": arguments.steps, "max_failures": arguments.kills}
    at = [draw.randrange(arguments.steps * 9 // 10) for _ in range(arguments.kills)]
    whole = Training(rows, folder / "whole", json.dumps(settings))
    killed = Training(rows, folder / "killed", json.dumps(settings))
    seconds = train(whole, [], draw)
    print(f"undisturbed: {arguments.steps} steps in {seconds:.0f} s", flush=True)
    seconds = train(killed, at, draw)
    who = [name for name, _ in killed.killed]
    print(
        f"disturbed: {len(who)} kills (driver {who.count('driver')}, worker "
        f"{who.count('worker')}) of {arguments.kills} planned, {killed.starts} starts, "
        f"{seconds:.0f} s"
    )
    found = compared(whole, killed)
    for name, equal in found.items():
        print(f"  {name:16} {'equal' if equal else 'DIFFERENT'}")
    return 0 if all(found.values()) and len(who) == arguments.kills else 1


if __name__ == "__main__":
    sys.exit(main())
