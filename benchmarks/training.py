"""Training, side by side with TRL's DPOTrainer: one command prints the tables.

    python benchmarks/training.py                     equal losses, DPO, RDPO
    python benchmarks/training.py --only scaling      2 workers against 1; time an epoch by rows
    python benchmarks/training.py --rows 128          shorter
    python benchmarks/training.py --only rdpo --rationale follow-up   after the chosen response

Both sides get the same token lists, model (6.8 M parameters, random), dtype, threads, global
batch, optimiser and schedule, and run one after the other, each in a process of its own. TRL is
1.16.0 (requirements/parity.txt, installed into `.parity/`), with and without log-probabilities of
the reference computed ahead, at the batch size, row order (random, or grouped by length) and
gradient checkpointing that a short sweep finds fastest, and at its default batch size of 8; its
leanest set-up is measured for memory. `pairs/s` is rows of an epoch over the seconds of the
reference pass and of the steps; tokenising and loading models are on neither side. `peak` is the
largest resident size of the process.
The HH-RLHF sample is read from RAYONALE_TEST_DATA or --data.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import training_data
from training_sides import ROOT, Bench, answer, port

SPEED = {"dpo": 4.0, "rdpo": 3.0}  # times TRL's, wanted
MEMORY, LOSS, SCALING, LINEAR = 0.6, 1e-4, 0.9, 0.1
MICRO = (1, 2, 8)
DEFAULT = {"micro": 8, "grouped": False, "checkpointing": False}
SWEEP_STEPS, PARITY_STEPS, PARITY_PAIRS = 2, 100, 4


def trl_settings(**options: Any) -> dict[str, Any]:
    """TRL's side of a specification."""
    base = {"micro": 8, "precompute": True, "grouped": False, "checkpointing": False}
    return base | {"order": None} | options


def parity(bench: Bench, loss: str) -> bool:
    """The same batches on both sides: the largest difference of a step's loss."""
    from rayonale.train.plan import make_plan
    from rayonale.train.shards import TokenRows

    rows = len(TokenRows([bench.paths["hh"]], ("chosen",)))
    steps = min(bench.arguments.steps, PARITY_STEPS)
    batch = min(PARITY_PAIRS, rows)
    plan = make_plan(rows, batch, epochs=None, max_steps=rows // batch, seed=0)
    steps = min(steps, plan.steps)
    order = [row for step in range(steps) for row in plan.global_batch(step)]
    options = {"steps": steps, "batch_pairs": batch, "learning_rate": 1e-4, "dtype": "float32"}
    ours = bench.run("ours", "hh", loss, **options)
    trl = bench.run("trl", "hh", loss, **options, **trl_settings(micro=batch, order=order))
    pairs = list(zip(ours["losses"], trl["losses"], strict=True))
    worst = max(abs(a - b) for a, b in pairs)
    print(
        f"{loss}: {len(pairs)} steps of {batch} pairs, loss {pairs[0][0]:.6f} → {pairs[-1][0]:.6f} "
        f"(TRL {pairs[0][1]:.6f} → {pairs[-1][1]:.6f}), largest difference {worst:.1e}, "
        f"wanted ≤ {LOSS:.0e}: {verdict(worst <= LOSS)}",
        flush=True,
    )
    return worst <= LOSS


def verdict(reached: bool) -> str:
    """A word for a target."""
    return "reached" if reached else "MISSED"


def best_of(bench: Bench, data: str, loss: str) -> dict[str, Any]:
    """TRL's fastest settings here, from a few steps of each."""
    found = {}
    for micro in MICRO:
        for grouped in (False, True) if micro > 1 else (False,):
            for checkpointing in (False, True):
                options = {"micro": micro, "grouped": grouped, "checkpointing": checkpointing}
                asked = trl_settings(**options, precompute=False)
                seen = bench.run("trl", data, loss, **{**asked, "steps": SWEEP_STEPS})
                found[named(options)] = (seen["pairs"] / seen["cpu_seconds"], options)
    told = ", ".join(f"{name} {rate:.2f}" for name, (rate, _) in found.items())
    print(f"\nTRL on {data}, {loss}, by batch size (pairs a CPU second): {told}", flush=True)
    return max(found.values(), key=lambda pair: pair[0])[1]


def named(options: dict[str, Any]) -> str:
    """`8 grouped checkpointed`."""
    grouped = " grouped" if options["grouped"] else ""
    return f"{options['micro']}{grouped}{' checkpointed' if options['checkpointing'] else ''}"


def side_by_side(bench: Bench, data: str, loss: str) -> bool:
    """A table of one data set and loss; whether the targets are reached."""
    best = bench.arguments.trl_batch or best_of(bench, data, loss)
    steps = {"steps": bench.arguments.steps} if bench.arguments.steps < PARITY_STEPS else {}
    sides = {
        "TRL, reference ahead": trl_settings(**best, precompute=True),
        "TRL, reference beside": trl_settings(**best, precompute=False),
    }
    if not bench.arguments.short:
        sides["TRL, default batch"] = trl_settings(**DEFAULT, precompute=True)
        sides["TRL, leanest"] = trl_settings(micro=1, precompute=True, checkpointing=True)
    found = {"ours": bench.run("ours", data, loss, **steps)}
    for name, options in sides.items():
        lean = {"steps": SWEEP_STEPS} if name.endswith("leanest") else {}
        found[name] = bench.run("trl", data, loss, **{**steps, **options, **lean})
    told = f" ({bench.arguments.rationale} rationales)" if loss == "rdpo" else ""
    print(f"{loss}{told} on {data}: {found['ours']['pairs']} pairs, batch 32, "
          f"{bench.arguments.dtype}, {bench.arguments.threads} thread(s); TRL at batch "
          f"{named(best)}")  # fmt: skip
    columns = ("pairs/s", 9), ("reference", 11), ("steps", 9), ("CPU s", 8), ("peak MiB", 10)
    print(" " * 24 + "".join(f"{name:>{width}}" for name, width in columns) + "  over start")
    for name, seen in found.items():
        print(
            f"{name:24}{seen['rate']:9.2f}{seen['reference_seconds']:9.1f} s"
            f"{seen['train_seconds']:7.1f} s{seen['cpu_seconds']:8.1f}{seen['peak_mib']:10.0f}"
            f"{seen['peak_mib'] - seen['start_mib']:12.0f}"
        )
    ours, default = found.pop("ours"), found.get("TRL, default batch")
    fastest = max(found, key=lambda name: found[name]["rate"])
    ratio = ours["rate"] / found[fastest]["rate"]
    memory = ours["peak_mib"] / found[fastest]["peak_mib"]
    work = (found[fastest]["cpu_seconds"] / found[fastest]["pairs"]) / (
        ours["cpu_seconds"] / ours["pairs"]
    )
    print(
        f"against {fastest}: {ratio:.2f} × pairs/s ({work:.2f} × per CPU second), wanted ≥ "
        f"{SPEED[loss]}: {verdict(ratio >= SPEED[loss])}; {memory:.2f} × peak memory, wanted ≤ "
        f"{MEMORY}: {verdict(memory <= MEMORY)}; padding {ours['padding']:.1%}",
        flush=True,
    )
    if default is not None:
        print(
            f"against its default batch of {DEFAULT['micro']}: "
            f"{ours['rate'] / default['rate']:.2f} × pairs/s, "
            f"{ours['peak_mib'] / default['peak_mib']:.2f} × peak memory",
            flush=True,
        )
    return ratio >= SPEED[loss] and memory <= MEMORY


def group(bench: Bench, worlds: list[int], data: str, **options: Any) -> list[dict[str, Any]]:
    """Trainings of so many workers each, at the same time; all begin to step together."""
    wait = Path(tempfile.mkdtemp(dir=bench.folder))
    processes = []
    for world in worlds:
        meet = port()
        spec = bench.spec(data, "cpo", wait=str(wait), **options)
        processes += [bench.start("ours", spec, rank, world, meet) for rank in range(world)]
    while len(list(wait.glob("ready-*"))) < len(processes):
        if any(process.poll() for process in processes):
            break
        time.sleep(0.05)
    (wait / "go").touch()
    return [found for found in map(answer, processes) if found]


def scaling(bench: Bench) -> bool:
    """Two workers against one, and against two that never talk; seconds an epoch by rows."""
    bench.common["threads"] = bench.arguments.threads = 1

    def steps_rate(found: list[dict[str, Any]]) -> float:
        return sum(each["pairs"] / each["train_seconds"] for each in found)

    options = {"steps": bench.arguments.steps} if bench.arguments.steps < PARITY_STEPS else {}
    one = steps_rate(group(bench, [1], "hh", **options))
    ceiling = steps_rate(group(bench, [1, 1], "hh", **options))
    print(f"\nscaling, CPO on hh, a core each: 1 worker {one:.2f} pairs/s, two alone {ceiling:.2f} "
          f"({ceiling / one:.2f} ×)", flush=True)  # fmt: skip
    shares = {}
    for stage in bench.arguments.zero_stages:
        two = steps_rate(group(bench, [2], "hh", zero_stage=stage, **options))
        shares[stage] = share = two / ceiling
        print(f"2 workers, ZeRO-{stage}: {two:.2f} pairs/s ({two / one:.2f} ×), {share:.2f} of two "
              f"alone, wanted ≥ {SCALING}: {verdict(share >= SCALING)}", flush=True)  # fmt: skip
    share = max(shares.values())
    rates, memory = {}, {}
    for rows in (1_000, 8_000):
        (seen,) = group(bench, [1], f"short-{rows}")
        rates[rows] = seen["train_seconds"] / rows * 1_000
        memory[rows] = seen["peak_mib"]
    off = abs(rates[8_000] / rates[1_000] - 1)
    print(f"epoch of 1,000 rows: {rates[1_000]:.1f} s per 1,000, of 8,000: {rates[8_000]:.1f} s "
          f"({off:.1%} off linear, wanted ≤ {LINEAR:.0%}: {verdict(off <= LINEAR)}); peak "
          f"{memory[1_000]:.0f} and {memory[8_000]:.0f} MiB")  # fmt: skip
    return share >= SCALING and off <= LINEAR


def asked_batch(text: str) -> dict[str, Any]:
    """`8`, `8g`, `1c` or `8gc` of the command line."""
    number = text.rstrip("gc")
    flags = text.removeprefix(number)
    return {"micro": int(number), "grouped": "g" in flags, "checkpointing": "c" in flags}


def install(folder: Path) -> None:
    """TRL, without dependencies, where it is not there yet."""
    if (folder / "1.16.0").is_dir():
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    command += [str(folder / "1.16.0"), "-r", str(ROOT / "requirements" / "parity.txt")]
    subprocess.run(command, check=True)


def main() -> int:
    """Measure and print; the exit code tells whether all targets are reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--only", choices=["parity", "dpo", "rdpo", "scaling"], action="append")
    parser.add_argument("--sets", choices=["hh", "long"], nargs="+", default=["hh", "long"])
    parser.add_argument("--rows", type=int, default=1_191, help="of each data set")
    parser.add_argument("--steps", type=int, default=PARITY_STEPS, help="fewer cut an epoch short")
    parser.add_argument(
        "--rationale",
        choices=training_data.RATIONALES,
        default="own-prompt",
        help="RDPO's rationales: after a prompt of their own, or following the chosen response",
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--zero-stages", type=int, nargs="+", default=[0, 1, 2], help="scaling")
    parser.add_argument(
        "--trl-batch",
        type=asked_batch,
        help="TRL's batch size, `g` grouped by length, `c` with checkpointing; no sweep",
    )
    parser.add_argument(
        "--short", action="store_true", help="without TRL's default batch and its leanest set-up"
    )
    parser.add_argument("--parity", type=Path, default=ROOT / ".parity")
    default = os.environ.get("RAYONALE_TEST_DATA", ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default), help="public samples")
    arguments = parser.parse_args()
    only = arguments.only or ["parity", "dpo", "rdpo"]
    install(arguments.parity)
    with tempfile.TemporaryDirectory(prefix="rayonale-training-") as temporary:
        short = (1_000, 8_000) if "scaling" in only else ()
        bench = Bench(Path(temporary), arguments, short)
        reached = []
        if "parity" in only:
            reached += [parity(bench, loss) for loss in SPEED]
        for loss in ("dpo", "rdpo"):
            if loss in only:
                reached += [side_by_side(bench, data, loss) for data in arguments.sets]
        if "scaling" in only:
            reached.append(scaling(bench))
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
