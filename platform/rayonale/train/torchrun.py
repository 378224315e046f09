"""The training loop without Ray, for profiling: what torchrun starts.

    torchrun --nproc-per-node 2 -m rayonale.train.torchrun runs/…/work/seed-0/job.json \\
        --work /tmp/profile --model /tmp/profile/model

A run on Ray Train leaves `job.json` in its folder; this goes through the same job with the number
of processes that torchrun starts. Checkpoints are folders under `<work>/checkpoints`, and the
same command goes on from the last one, on any number of processes.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from dataclasses import replace
from pathlib import Path

from rayonale.train.settings import TrainSettings
from rayonale.train.work import Host, Job, work


def main() -> None:
    """Parse the command line and train on this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("job", type=Path, help="job.json of a run")
    parser.add_argument("--work", help="where checkpoints, metrics and the result go")
    parser.add_argument("--model", help="where the trained model goes")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    job = Job(**json.loads(arguments.job.read_text()))
    changed = {"work": arguments.work, "model": arguments.model}
    run(replace(job, **{name: value for name, value in changed.items() if value}))


def run(job: Job) -> None:
    """Train a job in this process, one of those that torchrun started.

    Raises:
        ValueError: the work folder is not on a local file system.
    """
    if "://" in job.work:
        raise ValueError(f"--work: found {job.work}, expected a local folder")
    if not job.use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"  # before anything imports DeepSpeed
    import torch.distributed as dist

    from rayonale.train import checkpoints

    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    keep = TrainSettings.model_validate_json(job.settings).keep_checkpoints
    folder = Path(job.work) / "checkpoints"
    dist.init_process_group("nccl" if job.use_gpu else "gloo")
    host = Host(
        rank,
        world,
        load=lambda live: checkpoints.load_folder(live, folder, rank=rank, world=world),
        save=lambda live, now: checkpoints.save_folder(
            live, now, folder, keep=keep, rank=rank, world=world
        ),
    )
    work(job, host)
    dist.barrier()  # nobody leaves before the first worker has exported
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
