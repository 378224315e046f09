"""Ray Train around the loop: one run (one seed) from token shards to an exported model.

    driver ─ TorchTrainer.fit ─► controller ─► workers: worker(job)
      └ follows metrics.jsonl          └ restarts them from the last checkpoint

The same name and storage path find the checkpoints of an attempt that was killed, whoever was
killed: worker, controller, driver or machine.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from rayonale import cluster, storage
from rayonale.train import attention, history
from rayonale.train.settings import TrainSettings
from rayonale.train.work import RESULT, Host, Job, work

log = logging.getLogger("rayonale")

# Of 10 minutes each, in which workers wait for their resources; without a limit Ray waits for ever.
START_ATTEMPTS = 6
REFUSED = "refused.json"
JOB = "job.json"  # the same run without Ray: torchrun -m rayonale.train.torchrun <it>

# Threads that wait for each other sleep. By default they spin, and where another process needs a
# core, two threads were seen to train eight times slower than one.
PATIENT_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}


def run(job: Job, follow: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Run a job on Ray Train, or return the result of one that is finished.

    Args:
        follow: called in the driver with each step's metrics.

    Raises:
        RuntimeError: the workers failed more often than `max_failures`, with the last cause; or
            at once what starting again cannot mend: a loss that is not finite, settings that do
            not fit the checkpoint or the model.
    """
    result, refused = (storage.join(job.work, name) for name in (RESULT, REFUSED))
    metrics = storage.join(job.work, history.FILE)
    if not storage.exists(result):
        storage.remove(refused)
        storage.write_json(storage.join(job.work, JOB), asdict(job))
        log.info("attention: %s", _attention(job))
        with following(metrics, follow):
            _fit(job)
        if storage.exists(refused):
            raise RuntimeError(storage.read_json(refused)["error"])
    return {**storage.read_json(result), "history": history.read(metrics)}


def _attention(job: Job) -> str:
    """Which attention kernel the workers take, for the log."""
    settings = TrainSettings.model_validate_json(job.settings)
    return attention.told(settings.attention, "cuda" if job.use_gpu else "cpu")


def _fit(job: Job) -> None:
    # Workers import for half a minute on a busy machine; finished and dead ones are seen sooner.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    _spare_local_session()
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    settings = TrainSettings.model_validate_json(job.settings)
    resources = {"CPU": float(settings.cpus_per_worker)} | ({"GPU": 1.0} if job.use_gpu else {})
    cluster.require("training workers", settings.workers, resources)
    trainer = TorchTrainer(
        worker,
        train_loop_config=asdict(job),
        scaling_config=ScalingConfig(
            num_workers=settings.workers, use_gpu=job.use_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=job.work if "://" in job.work else str(Path(job.work).resolve()),
            failure_config=FailureConfig(
                max_failures=settings.max_failures, controller_failure_limit=START_ATTEMPTS
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=settings.keep_checkpoints),
            worker_runtime_env={"env_vars": dict(PATIENT_THREADS)},
        ),
        torch_config=TorchConfig(backend="nccl" if job.use_gpu else "gloo"),
    )
    try:
        trainer.fit()
    except Exception as error:
        causes = getattr(error, "worker_failures", None) or {}
        told = "; ".join(f"worker {rank}: {cause}" for rank, cause in causes.items()) or str(error)
        raise RuntimeError(
            f"training failed after {settings.max_failures} restart(s): {told}. The last "
            "checkpoint is kept; the same command goes on from it"
        ) from error


def _spare_local_session() -> None:
    """Leave out processes of Ray Train that a session on this machine alone has no use for.

    The placement group cleaner asks the dashboard every second whether the controller lives, and
    a local session has none. Its machine is not taken away with notice, which the preemption
    watcher waits for; and nothing is read through Ray Train's data sets. Each takes seconds of a
    core to start, as long as a small training takes. On a cluster all are kept.
    """
    import ray
    from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
    from ray.train.v2.api import data_parallel_trainer

    if getattr(ray._private.worker.global_worker.node, "webui_url", None):
        return

    class NoCleaner(ControllerCallback):
        pass

    class NoData(WorkerGroupCallback):
        def __init__(self, **_: Any) -> None:
            pass

    data_parallel_trainer.PlacementGroupCleanerCallback = NoCleaner
    data_parallel_trainer.DatasetsCallback = NoData
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")


def worker(config: dict[str, Any]) -> None:
    """What every worker process does; errors that a restart would only repeat end the run."""
    import ray.train

    from rayonale.train import checkpoints

    job = Job(**config)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    host = Host(
        rank,
        world,
        load=lambda live: checkpoints.load(live, rank=rank, world=world),
        save=lambda live, now: checkpoints.save(live, now, rank=rank, world=world),
    )
    try:
        work(job, host)
        ray.train.report({})  # nobody leaves before the first worker has exported
    except (FloatingPointError, ValueError) as error:  # every worker raises these together
        # Broken files can be one worker's alone: its failure must not be taken for an end.
        if isinstance(error, pa.ArrowInvalid | json.JSONDecodeError | UnicodeError):
            raise
        if rank == 0:
            told = f"{type(error).__name__}: {error}"
            storage.write_json(storage.join(job.work, REFUSED), {"error": told})


@contextmanager
def following(metrics: str, follow: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Call `follow` with each new entry of a metrics file while the block runs, and at its end."""
    over = threading.Event()
    told = -1

    def poll() -> None:
        nonlocal told
        for entry in history.read(metrics):
            if entry["step"] > told:
                told = entry["step"]
                follow(entry)

    def watch() -> None:
        while not over.wait(2.0):
            poll()

    thread = threading.Thread(target=watch, name="follow-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        poll()
