"""The training loop: from row numbers to an optimiser step, on one screen.

    plan ─► rows of the step ─► micro-batches of this worker ─► packed batch ─► log-probabilities
         ─► terms of the loss, one value a row ─► divided by the global batch's counts ─► backward
         ─► one vector of sums over all workers ─► finite? ─► optimiser step ─► metrics

Some losses need a mean over the whole global batch first (`look_ahead`). The steps from row
numbers to a loss are in `scoring.py`.

A plain function of (engine, data, settings, rank, world): Ray Train launches it, anything else
may. All randomness is in the plan's seed and in torch's generators, which checkpoints hold.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from rayonale import losses
from rayonale.losses.spec import Loss
from rayonale.train.failures import naming_memory
from rayonale.train.plan import Plan
from rayonale.train.schedule import learning_rate
from rayonale.train.scoring import Tally, batch_of, look_ahead, score, split
from rayonale.train.settings import TrainSettings
from rayonale.train.shards import TokenRows


@dataclass(frozen=True)
class Progress:
    """Where a run is; checkpoints hold it.

    Attributes:
        step: optimiser steps done.
        best_loss, best_step: lowest validation loss and the steps done when it was seen.
        seconds: spent in training steps, over all attempts.
    """

    step: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Hooks:
    """What the loop tells the outside; each is called by every worker.

    `watch` gives numbers after so many steps, which go into the step's metrics.
    """

    stepped: Callable[[dict[str, Any]], None]
    improved: Callable[[Progress], None]
    checkpoint: Callable[[Progress], None]
    watch: Callable[[int], dict[str, float]] = lambda steps: {}


def train(
    engine: Any,
    rows: TokenRows,
    validation: TokenRows | None,
    *,
    settings: TrainSettings,
    plan: Plan,
    hooks: Hooks,
    progress: Progress,
    device: torch.device,
    rank: int,
    world: int,
) -> Progress:
    """Train from `progress` to the plan's end.

    Raises:
        FloatingPointError: the loss or its gradient is not finite; names the step and remedies.
        MemoryError: memory ran out; names the step and remedies.
    """
    loss = losses.of(settings.loss)
    saved = time.monotonic()
    for step in range(progress.step, plan.steps):
        started = time.monotonic()
        rate = learning_rate(
            step,
            steps=plan.steps,
            peak=settings.learning_rate,
            warmup=settings.warmup(plan.steps),
            schedule=settings.schedule,
        )
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        numbers = plan.global_batch(step)
        before = hooks.watch(0) if step == 0 else {}
        tally = Tally(rows.counts(numbers, loss.sequences))
        engine.train()
        with naming_memory(step, settings):
            ahead = look_ahead(
                engine, rows, numbers, loss, settings, device=device, rank=rank, world=world
            )
            parts = split(
                rows, numbers, settings, sequences=loss.sequences, world=world, device=device
            )
            for micro in parts[rank]:
                batch = batch_of(
                    rows, micro, loss, loss.sequences, settings=settings, device=device
                )
                scores = score(engine, batch, loss, device, ahead)
                value = tally.add(scores, batch, loss, settings)
                # The engine averages over workers; our counts are global already.
                engine.backward(value * world, scale_wrt_gas=False)
            overdue = time.monotonic() - saved > settings.checkpoint_minutes * 60
            metrics, overdue = tally.reduced(device, flag=overdue)
            require_finite(metrics["loss"], "loss", step, rate)
            engine.step()
            norm = float(engine.get_global_grad_norm() or 0.0)
            require_finite(norm, "gradient norm", step, rate)

        seconds = time.monotonic() - started
        progress = replace(progress, step=step + 1, seconds=progress.seconds + seconds)
        entry = {"step": step, "epoch": (step + 1) / plan.steps_per_epoch, **metrics, **before}
        entry |= {"grad_norm": norm, "learning_rate": rate}
        entry |= speed(tally, metrics, seconds, len(numbers), device)
        if step > 0 and validates(step, plan, settings):
            entry |= hooks.watch(step + 1)
        if validation is not None and validates(step, plan, settings):
            found = validate(
                engine,
                validation,
                settings=settings,
                loss=loss,
                device=device,
                rank=rank,
                world=world,
            )
            require_finite(found["loss"], "validation loss", step, rate)
            entry |= {f"validation/{name}": value for name, value in found.items()}
            if progress.best_loss is None or found["loss"] < progress.best_loss:
                progress = replace(progress, best_loss=found["loss"], best_step=step + 1)
                hooks.improved(progress)
        hooks.stepped(entry)
        every = settings.checkpoint_every
        if overdue or (every is not None and (step + 1) % every == 0 and step + 1 < plan.steps):
            hooks.checkpoint(progress)
            saved = time.monotonic()
    return progress


@torch.no_grad()
def validate(
    engine: Any,
    rows: TokenRows,
    *,
    settings: TrainSettings,
    loss: Loss,
    device: torch.device,
    rank: int,
    world: int,
) -> dict[str, float]:
    """Loss and metrics over all validation rows."""
    engine.eval()
    numbers = list(range(len(rows)))
    tally = Tally(rows.counts(numbers, loss.sequences))
    ahead = look_ahead(engine, rows, numbers, loss, settings, device=device, rank=rank, world=world)
    parts = split(rows, numbers, settings, sequences=loss.sequences, world=world, device=device)
    for micro in parts[rank]:
        batch = batch_of(rows, micro, loss, loss.sequences, settings=settings, device=device)
        tally.add(score(engine, batch, loss, device, ahead), batch, loss, settings)
    return tally.reduced(device)[0]


def validates(step: int, plan: Plan, settings: TrainSettings) -> bool:
    """Whether validation follows a step: by the setting, else after each epoch; always last."""
    every = settings.validate_every or plan.steps_per_epoch
    return (step + 1) % every == 0 or step + 1 == plan.steps


def speed(
    tally: Tally, metrics: dict[str, float], seconds: float, pairs: int, device: torch.device
) -> dict[str, float]:
    """Throughput, padding and memory of a step."""
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device)
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "tokens": float(tally.tokens),
        "tokens_per_second": tally.tokens / seconds,
        "pairs_per_second": pairs / seconds,
        "padding_share": tally.padding / max(1, tally.padding + tally.tokens),
        "memory_gib": memory / 2**30,
        "seconds": seconds,
    }


def require_finite(value: float, what: str, step: int, rate: float) -> None:
    """Stop before a bad value reaches the weights or a checkpoint."""
    if not math.isfinite(value):
        raise FloatingPointError(
            f"step {step}: the {what} is {value} (learning rate {rate:g}). The last checkpoint is "
            "intact. Remedies: a lower learning_rate, warm-up, a smaller clip, dtype float32; "
            "look at the rows of this step if it happens again at the same one"
        )
