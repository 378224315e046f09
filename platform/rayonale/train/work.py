"""What every worker process does, whoever started it: load, resume, train, export.

    Ray Train (launch.py) ─┐
                           ├─► work(job, host) ─► loop.train ─► model/
    torchrun (torchrun.py) ┘

A host says which worker this is and where its checkpoints are; nothing here knows of Ray.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rayonale import losses, storage
from rayonale.train import history
from rayonale.train.settings import TrainSettings

if TYPE_CHECKING:  # the driver needs the job's type, not torch
    import torch

    from rayonale.train.batches import Batch
    from rayonale.train.export import Snapshot
    from rayonale.train.loop import Hooks, Progress

log = logging.getLogger("rayonale")

PROBE_ROWS = 2
RESULT = "result.json"


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
        watched: name → URIs of token shards of rows that are watched.
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
    watched: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Host:
    """This worker among the others, and its checkpoints.

    Attributes:
        load: takes up the last checkpoint in an engine, if there is one.
        save: writes one; every worker calls it at the same step.
    """

    rank: int
    world: int
    load: Callable[[Any], Progress]
    save: Callable[[Any, Progress], None]


@dataclass(frozen=True)
class _Run:
    """A run under way on this worker."""

    job: Job
    host: Host
    settings: TrainSettings
    live: Any
    probe: Batch
    device: torch.device
    steps: history.History

    def snapshot(self) -> Snapshot | None:
        """The live model, on the first worker; every worker calls it."""
        from rayonale.train import export

        return export.take(self.live, self.probe, rank=self.host.rank, device=self.device)

    def hooks(self, last: int) -> Hooks:
        """What the loop tells: metrics, the best weights so far, checkpoints."""
        from rayonale.train.loop import Hooks

        def stepped(entry: dict[str, Any]) -> None:
            if self.host.rank == 0:
                self.steps.add(entry)

        def improved(now: Progress) -> None:
            if self.settings.select == "best" and now.step < last:
                snapshot = self.snapshot()
                if snapshot is not None:
                    snapshot.save(best_file(self.job.work))

        def checkpoint(now: Progress) -> None:
            if self.host.rank == 0:
                self.steps.write()
            self.host.save(self.live, now)

        return Hooks(stepped, improved, checkpoint, self.watch() if self.job.watched else no_watch)

    def watch(self) -> Callable[[int], dict[str, float]]:
        """Mean log-probability of each stage's watched responses, after so many steps."""
        from rayonale.train import loop, watched
        from rayonale.train.shards import TokenRows

        sequences = watched.LOSS.sequences
        rows = {name: TokenRows(uris, sequences) for name, uris in self.job.watched.items()}

        def look(steps: int) -> dict[str, float]:
            means = {
                name: loop.validate(
                    self.live, found, settings=self.settings, loss=watched.LOSS,
                    device=self.device, rank=self.host.rank, world=self.host.world,
                )[f"logprob/{watched.RESPONSE}"]
                for name, found in rows.items()
            }  # fmt: skip
            return watched.measured(means, steps)

        return look


def no_watch(steps: int) -> dict[str, float]:
    """Nothing is watched."""
    return {}


def work(job: Job, host: Host) -> None:
    """Load, resume, train, export.

    Raises:
        ValueError: settings do not fit the model or the checkpoint.
        FloatingPointError: the loss or its gradient is not finite.
    """
    from rayonale.train import adapters, attention, batches, engine, loop, reward_head
    from rayonale.train.examples import TOGETHER
    from rayonale.train.plan import make_plan
    from rayonale.train.policy import Policy, check_forward, load_model
    from rayonale.train.shards import TokenRows
    from rayonale.train.trees import responses_among

    settings = TrainSettings.model_validate_json(job.settings)
    device = engine.prepare_process(
        job.seed, host.rank, use_gpu=job.use_gpu, threads=settings.cpus_per_worker
    )
    loss = losses.of(settings.loss)
    sequences, whole = loss.sequences, bool(loss.rewards)
    rows = TokenRows(job.shards, sequences, whole)
    validation = TokenRows(job.validation, sequences, whole) if job.validation else None
    plan = make_plan(
        len(rows),
        settings.batch_pairs,
        epochs=settings.epochs,
        max_steps=settings.max_steps,
        seed=job.seed,
        together=None if settings.together is None else rows.column(TOGETHER),
    )
    kernel = attention.choose(settings.attention, device.type)
    quantised = adapters.quantisation(settings.lora, device)
    model = load_model(job.start, settings.dtype, settings.max_length, kernel, quantised)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if settings.lora is not None:
        adapters.attach(model, settings.lora, job.seed)
    wanted = settings.head()
    head = None if wanted is None else reward_head.make(model, wanted, job.seed, job.start)
    live = engine.start(Policy(model, head).to(device), settings, host.world)
    progress = host.load(live)
    shortest = sorted(range(len(rows)), key=lambda row: (rows.costs([row])[0], row))[:PROBE_ROWS]
    probe = batches.collate(rows.take(shortest), responses_among(sequences), whole=whole)
    live.eval()
    check_forward(live, model, probe, settings.dtype, device)
    steps = history.History(storage.join(job.work, history.FILE), upto=progress.step)
    run = _Run(job, host, settings, live, probe, device, steps)
    done = loop.train(
        live,
        rows,
        validation,
        settings=settings,
        plan=plan,
        hooks=run.hooks(plan.steps),
        progress=progress,
        device=device,
        rank=host.rank,
        world=host.world,
    )
    snapshot = run.snapshot()
    if snapshot is not None:
        _finish(run, snapshot, plan.steps, done)


def _finish(run: _Run, snapshot: Snapshot, steps: int, done: Progress) -> None:
    """On the first worker: export the chosen weights, write the result."""
    from rayonale.train import export

    job, settings, chosen = run.job, run.settings, steps
    run.steps.write()
    if settings.select == "best" and done.best_step not in (None, steps):
        chosen, snapshot = int(done.best_step or 0), export.Snapshot.load(best_file(job.work))
    summary = summarise(run.steps.entries, chosen, steps, done)
    export.export(
        snapshot,
        start=job.start,
        chat_template=settings.chat_template,
        dtype=settings.dtype,
        lora=settings.lora,
        head=settings.head(),
        probe=run.probe,
        uri=job.model,
        card=model_card(job, settings, summary),
    )
    storage.write_json(storage.join(job.work, RESULT), summary)


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
