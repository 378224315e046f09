"""The training loop: from row numbers to an optimiser step, on one screen.

    plan ─► rows of the step ─► micro-batches of this worker ─► packed batch ─► log-probabilities
         ─► terms of the loss, one value a row ─► divided by the global batch's counts ─► backward
         ─► one vector of sums over all workers ─► finite? ─► optimiser step ─► metrics

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
import torch.distributed as dist
from torch import Tensor

from rayonale import losses
from rayonale.losses.spec import PAIRS, Loss, Scores
from rayonale.train.batches import ALIGN, Batch, collate
from rayonale.train.examples import REFERENCE_OF, columns_of
from rayonale.train.plan import MicroBatch, Plan, micro_batches
from rayonale.train.schedule import learning_rate
from rayonale.train.settings import TrainSettings
from rayonale.train.shards import TokenRows

# Small ones stay in a CPU's caches; a GPU wants to be filled.
DEFAULT_MICRO_BATCH_TOKENS = {"cpu": 2_048, "cuda": 16_384}


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
    """What the loop tells the outside; each is called by every worker."""

    stepped: Callable[[dict[str, Any]], None]
    improved: Callable[[Progress], None]
    checkpoint: Callable[[Progress], None]


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
    """
    loss = losses.get(settings.loss.name)
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
        counts = rows.counts(numbers)
        tally = Tally(counts)
        engine.train()
        for micro in split(rows, numbers, settings, world, device)[rank]:
            batch = batch_of(rows, micro, loss, settings.dtype)
            scores = score(engine, batch, loss, device)
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
        entry = {"step": step, "epoch": (step + 1) / plan.steps_per_epoch, **metrics}
        entry |= {"grad_norm": norm, "learning_rate": rate}
        entry |= speed(tally, metrics, seconds, len(numbers), device)
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


def split(
    rows: TokenRows, numbers: list[int], settings: TrainSettings, world: int, device: torch.device
) -> list[list[MicroBatch]]:
    """Micro-batches of a global batch, by worker."""
    tokens = settings.micro_batch_tokens
    if tokens is None and settings.micro_batch_pairs is None:
        tokens = DEFAULT_MICRO_BATCH_TOKENS[device.type]
    return micro_batches(
        numbers,
        rows.costs(numbers),
        world=world,
        max_tokens=tokens,
        max_rows=settings.micro_batch_pairs,
    )


def batch_of(rows: TokenRows, micro: MicroBatch, loss: Loss, dtype: str) -> Batch:
    """The tensors of a micro-batch."""
    return collate(
        rows.take(micro.rows),
        loss.sequences,
        values=columns_of(loss),
        filler=micro.filler,
        align=ALIGN[dtype],
    )


def score(engine: Any, batch: Batch, loss: Loss, device: torch.device) -> Scores:
    """The policy's log-probabilities of a batch, by sequence name, [P]."""
    logprob = engine(**batch.inputs(device))  # [S]
    value = {name: tensor.to(device) for name, tensor in batch.value.items()}
    return Scores(
        logprob={n: logprob[index.to(device)] for n, index in batch.sequence.items()},
        length={name: tensor.to(device) for name, tensor in batch.length.items()},
        reference={n: value[c] for n, c in REFERENCE_OF.items()} if loss.reference else {},
        value=value,
    )


class Tally:
    """Sums over the rows of a global batch, and the loss that they make up."""

    def __init__(self, counts: dict[str, float]) -> None:
        self.counts = counts
        self.sums: dict[str, Tensor] = {}
        self.tokens = 0
        self.padding = 0

    def add(self, scores: Scores, batch: Batch, loss: Loss, settings: TrainSettings) -> Tensor:
        """Count a micro-batch; returns its share of the global batch's loss (a scalar)."""
        weight = batch.weight.to(next(iter(scores.logprob.values())).device)
        total = weight.new_zeros(())
        for name, term in loss.terms(scores, settings.loss).items():
            # where, not ·: a filler's infinity must not become NaN.
            share = torch.where(weight > 0, term.values, 0.0).sum() / self.counts[term.over]
            self._sum(f"terms/{name}", share)
            total = total + share
        self._sum("loss", total)
        with torch.no_grad():
            seen = dict(loss.observe(scores, settings.loss))
            seen |= {f"logprob/{name}": value for name, value in scores.logprob.items()}
            for name, values in seen.items():
                mean = torch.where(weight > 0, values, 0.0).sum() / self.counts[PAIRS]
                self._sum(name, mean)
        padding, tokens = batch.padding
        self.padding += padding
        self.tokens += tokens - padding
        return total

    def _sum(self, name: str, value: Tensor) -> None:
        value = value.detach().double()
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def reduced(self, device: torch.device, *, flag: bool = False) -> tuple[dict[str, float], bool]:
        """Metrics over all workers, and whether any worker raised its flag: one message."""
        extra = torch.tensor([self.tokens, self.padding, flag], dtype=torch.float64, device=device)
        vector = torch.cat([torch.stack(list(self.sums.values())), extra])
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(vector)
        *values, tokens, padding, raised = vector.tolist()
        self.tokens, self.padding = int(tokens), int(padding)
        return dict(zip(self.sums, values, strict=True)), raised > 0


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
    tally = Tally(rows.counts(numbers))
    for micro in split(rows, numbers, settings, world, device)[rank]:
        batch = batch_of(rows, micro, loss, settings.dtype)
        tally.add(score(engine, batch, loss, device), batch, loss, settings)
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
