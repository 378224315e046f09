"""Our side of `training.py`: the reference pass and the training loop on one worker or several.

    python benchmarks/training_ours.py <spec.json>      prints one line: SIDE {…}

Started by `training.py`; RANK, WORLD_SIZE and MASTER_PORT are in the environment.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Train as the specification says and print what was measured."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    rank, world = int(os.environ.setdefault("RANK", "0")), int(os.environ["WORLD_SIZE"])
    from rayonale.train import engine

    device = engine.prepare_process(0, rank, use_gpu=False, threads=spec["threads"])
    import torch

    import rayonale.train.loop  # noqa: F401  # the memory at the start has all imports

    torch.distributed.init_process_group("gloo")
    at_start = peak_mib()
    found = train(spec, rank, world, device)
    found |= {"start_mib": at_start, "peak_mib": peak_mib()}
    if rank == 0:
        print("SIDE " + json.dumps(found))
    torch.distributed.destroy_process_group()


def peak_mib() -> float:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def train(spec: dict[str, Any], rank: int, world: int, device: Any) -> dict[str, Any]:
    """Seconds of the reference pass and of the steps, and the loss of each step."""
    from rayonale.train import engine, loop
    from rayonale.train.plan import make_plan
    from rayonale.train.policy import Policy, load_model
    from rayonale.train.settings import TrainSettings
    from rayonale.train.shards import TokenRows

    settings = TrainSettings(
        loss=spec["loss"],
        batch_pairs=spec["batch_pairs"],
        learning_rate=spec["learning_rate"],
        schedule="linear",
        dtype=spec["dtype"],
        zero_stage=spec.get("zero_stage", 0),
        micro_batch_tokens=spec.get("micro_batch_tokens"),
    )
    loss = loop.losses.get(settings.loss.name)
    rows = TokenRows([spec["shard"]], loss.sequences)
    reference = reference_cpu = 0.0
    if loss.reference:
        out = Path(sys.argv[1]).with_suffix(f".{rank}.arrow")
        reference, reference_cpu = with_reference(rows, spec, out)
        rows = TokenRows([str(out)], loss.sequences)
    steps = spec["steps"] or -(-len(rows) // settings.batch_pairs)
    plan = make_plan(len(rows), settings.batch_pairs, epochs=None, max_steps=steps, seed=0)
    live = engine.start(
        Policy(load_model(spec["model"], settings.dtype, 4_096)).to(device), settings, world
    )
    entries: list[dict[str, Any]] = []
    if spec.get("wait"):  # workers of one measurement begin together
        wait_for(spec["wait"])
    started, busy = time.monotonic(), time.process_time()
    loop.train(
        live,
        rows,
        None,
        settings=settings,
        plan=plan,
        hooks=loop.Hooks(entries.append, lambda now: None, lambda now: None),
        progress=loop.Progress(),
        device=device,
        rank=rank,
        world=world,
    )
    seconds, cpu = time.monotonic() - started, time.process_time() - busy
    pairs = sum(len(plan.global_batch(step)) for step in range(steps))
    share = pairs / len(rows)  # of the rows that were trained on
    return {
        "pairs": pairs,
        "reference_seconds": reference * share,
        "train_seconds": seconds,
        "cpu_seconds": reference_cpu * share + cpu,
        "losses": [entry["loss"] for entry in entries],
        "padding": sum(entry["padding_share"] for entry in entries) / len(entries),
        "tokens": sum(entry["tokens"] for entry in entries),
        "grad_norms": [entry["grad_norm"] for entry in entries],
    }


def with_reference(rows: Any, spec: dict[str, Any], out: Path) -> tuple[float, float]:
    """Write the shard with the reference's columns, computed as the reference stage does.

    Returns:
        Seconds, and CPU seconds, without those of loading the model (as on TRL's side).
    """
    import pyarrow as pa

    from rayonale.enrich.reference import Job, Scorer
    from rayonale.train.examples import Encoding

    job = Job(
        encoding=Encoding(spec["model"], ("chosen", "rejected"), max_length=4_096),
        shared_fingerprint="",
        dtype=spec["dtype"],
        threads=spec["threads"],
        use_gpu=False,
        micro_batch_tokens=None,
        out="",
    )
    scorer = Scorer(job)
    started, busy = time.monotonic(), time.process_time()
    found = scorer.logprobs(rows.take(range(len(rows))))
    spent = time.monotonic() - started, time.process_time() - busy
    table = pa.ipc.open_file(pa.memory_map(spec["shard"])).read_all()
    for name in found[0]:
        table = table.append_column(name, pa.array([row[name] for row in found], pa.float32()))
    with pa.OSFile(str(out), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return spent


def wait_for(folder: str) -> None:
    """Tell that this process is ready, and wait for the word to go."""
    Path(folder, f"ready-{os.getpid()}").touch()
    while not Path(folder, "go").exists():
        time.sleep(0.01)


if __name__ == "__main__":
    main()
