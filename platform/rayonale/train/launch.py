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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from rayonale import storage
from rayonale.train import history
from rayonale.train.settings import TrainSettings

log = logging.getLogger("rayonale")

PROBE_ROWS = 2
REFUSED = "refused.json"

# Threads that wait for each other sleep. By default they spin, and where another process needs a
# core, two threads were seen to train eight times slower than one.
PATIENT_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True)
class Job:
    """One run, as sent to workers.

    Attributes:
        settings: `TrainSettings` as JSON.
        start: folder or hub name of the weights to start from.
        shards, validation: URIs of token shards.
        work: URI of the run's folder: checkpoints, metrics, result.
        model: URI of the Hugging Face folder to write.
        facts: lineage facts for the model card.
    """

    settings: str
    start: str
    shards: list[str]
    validation: list[str]
    seed: int
    use_gpu: bool
    work: str
    model: str
    facts: dict[str, str]


def run(job: Job, follow: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Run a job on Ray Train, or return the result of one that is finished.

    Args:
        follow: called in the driver with each step's metrics.

    Raises:
        RuntimeError: the workers failed more often than `max_failures`, with the last cause; or
            at once what starting again cannot mend: a loss that is not finite, settings that do
            not fit the checkpoint or the model.
    """
    result, refused = (storage.join(job.work, name) for name in ("result.json", REFUSED))
    metrics = storage.join(job.work, history.FILE)
    if not storage.exists(result):
        storage.remove(refused)
        with following(metrics, follow):
            _fit(job)
        if storage.exists(refused):
            raise RuntimeError(storage.read_json(refused)["error"])
    return {**storage.read_json(result), "history": history.read(metrics)}


def _fit(job: Job) -> None:
    # Workers import for half a minute on a busy machine; finished and dead ones are seen sooner.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    _quiet_without_dashboard()
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    settings = TrainSettings.model_validate_json(job.settings)
    resources = {"CPU": float(settings.cpus_per_worker)} | ({"GPU": 1.0} if job.use_gpu else {})
    trainer = TorchTrainer(
        worker,
        train_loop_config=asdict(job),
        scaling_config=ScalingConfig(
            num_workers=settings.workers, use_gpu=job.use_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=job.work if "://" in job.work else str(Path(job.work).resolve()),
            failure_config=FailureConfig(max_failures=settings.max_failures),
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


def _quiet_without_dashboard() -> None:
    """Leave out Ray Train's placement group cleaner in a local session.

    It asks the dashboard every second whether the controller lives and warns each time that it
    gets no answer. A local session, which ends with this process, has no dashboard and nothing to
    clean up; a cluster has both.
    """
    import ray
    from ray.train.v2._internal.execution.callback import ControllerCallback
    from ray.train.v2.api import data_parallel_trainer

    if not getattr(ray._private.worker.global_worker.node, "webui_url", None):

        class NoCleaner(ControllerCallback):
            pass

        data_parallel_trainer.PlacementGroupCleanerCallback = NoCleaner


def worker(config: dict[str, Any]) -> None:
    """What every worker process does; errors that a restart would only repeat end the run."""
    import ray.train

    job = Job(**config)
    try:
        work(job)
    except (FloatingPointError, ValueError) as error:  # every worker raises these together
        # Broken files can be one worker's alone: its failure must not be taken for an end.
        if isinstance(error, pa.ArrowInvalid | json.JSONDecodeError | UnicodeError):
            raise
        if ray.train.get_context().get_world_rank() == 0:
            told = f"{type(error).__name__}: {error}"
            storage.write_json(storage.join(job.work, REFUSED), {"error": told})


def work(job: Job) -> None:
    """Load, resume, train, export."""
    import ray.train

    from rayonale.train import batches, checkpoints, engine, export, loop
    from rayonale.train.plan import make_plan
    from rayonale.train.policy import Policy, check_forward, load_model
    from rayonale.train.shards import TokenRows

    settings = TrainSettings.model_validate_json(job.settings)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = engine.prepare_process(
        job.seed, rank, use_gpu=job.use_gpu, threads=settings.cpus_per_worker
    )
    loss = loop.losses.get(settings.loss.name)
    rows = TokenRows(job.shards, loss.sequences)
    validation = TokenRows(job.validation, loss.sequences) if job.validation else None
    plan = make_plan(
        len(rows),
        settings.batch_pairs,
        epochs=settings.epochs,
        max_steps=settings.max_steps,
        seed=job.seed,
    )
    model = load_model(job.start, settings.dtype, settings.max_length)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    live = engine.start(Policy(model).to(device), settings, world)
    progress = checkpoints.load(live, rank=rank, world=world)
    shortest = sorted(range(len(rows)), key=lambda row: (rows.costs([row])[0], row))[:PROBE_ROWS]
    probe = batches.collate(rows.take(shortest), loss.sequences)
    live.eval()
    check_forward(live, model, probe, settings.dtype, device)

    steps = history.History(storage.join(job.work, history.FILE), upto=progress.step)

    def stepped(entry: dict[str, Any]) -> None:
        if rank == 0:
            steps.add(entry)

    def improved(now: loop.Progress) -> None:
        if settings.select == "best" and now.step < plan.steps:
            snapshot = export.take(live, probe, rank=rank, device=device)
            if snapshot is not None:
                snapshot.save(best_file(job.work))

    def checkpoint(now: loop.Progress) -> None:
        if rank == 0:
            steps.write()
        checkpoints.save(live, now, rank=rank, world=world)

    done = loop.train(
        live,
        rows,
        validation,
        settings=settings,
        plan=plan,
        hooks=loop.Hooks(stepped, improved, checkpoint),
        progress=progress,
        device=device,
        rank=rank,
        world=world,
    )
    snapshot = export.take(live, probe, rank=rank, device=device)
    if rank == 0:
        assert snapshot is not None
        steps.write()
        chosen = plan.steps
        if settings.select == "best" and done.best_step not in (None, plan.steps):
            chosen, snapshot = int(done.best_step or 0), export.Snapshot.load(best_file(job.work))
        summary = summarise(steps.entries, chosen, plan.steps, done)
        export.export(
            snapshot,
            start=job.start,
            chat_template=settings.chat_template,
            dtype=settings.dtype,
            probe=probe,
            uri=job.model,
            card=model_card(job, settings, summary),
        )
        storage.write_json(storage.join(job.work, "result.json"), summary)
    ray.train.report({"step": plan.steps})


def best_file(work: str) -> str:
    """Weights with the lowest validation loss so far."""
    return storage.join(work, "best.safetensors")


def summarise(
    entries: list[dict[str, Any]], chosen: int, steps: int, progress: Any
) -> dict[str, Any]:
    """A finished run in numbers."""
    tail = entries[-max(1, len(entries) // 10) :]
    seconds = sum(entry["seconds"] for entry in entries)
    tokens = sum(entry["tokens"] for entry in entries)
    pairs = sum(entry["pairs_per_second"] * entry["seconds"] for entry in entries)
    found = {
        "steps": steps,
        "chosen_step": chosen,
        "train_loss": sum(entry["loss"] for entry in tail) / len(tail),
        "first_loss": entries[0]["loss"],
        "train_seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "pairs_per_second": pairs / seconds,
        "peak_memory_gib": max(entry["memory_gib"] for entry in entries),
        "padding_share": sum(e["padding_share"] for e in entries) / len(entries),
    }
    validated = {e["step"] + 1: e["validation/loss"] for e in entries if "validation/loss" in e}
    if validated:  # of the exported weights, not of the best ones seen
        found["validation_loss"] = validated.get(chosen, progress.best_loss)
    return found


def model_card(job: Job, settings: TrainSettings, summary: dict[str, Any]) -> str:
    """README.md of the exported folder."""
    facts = {"starts from": job.start, "seed": str(job.seed), **job.facts}
    lines = ["---", "library_name: transformers", "tags: [rayonale]", "---", ""]
    lines += [f"# Trained with {settings.loss.name}", "", "| fact | value |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    lines += [f"| {n} | {v:.6g} |" for n, v in summary.items() if isinstance(v, int | float)]
    options = json.dumps(settings.model_dump(mode="json"), indent=2)
    return "\n".join([*lines, "", "## Settings", "", "```json", options, "```", ""])


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
