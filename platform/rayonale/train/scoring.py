"""From a micro-batch to what a loss takes, and the sums that a global batch's loss is made of.

    rows of a micro-batch ─ collate ─► packed batch ─ policy ─► Scores ─ loss ─► Tally

What a loss must know of the whole global batch beforehand (`Ahead`) is taken here too, in a pass
without gradient over all of the batch's rows on all workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rayonale.losses.spec import PAIRS, Loss, Scores
from rayonale.train.attention import ONE_ROW, choose
from rayonale.train.batches import ALIGN, Batch, collate
from rayonale.train.examples import columns_of
from rayonale.train.plan import MicroBatch, micro_batches
from rayonale.train.settings import TrainSettings
from rayonale.train.shards import TokenRows
from rayonale.train.trees import reference_column

# Small ones stay in a CPU's caches; a GPU wants to be filled.
DEFAULT_MICRO_BATCH_TOKENS = {"cpu": 1_024, "cuda": 16_384}


def split(
    rows: TokenRows,
    numbers: list[int],
    settings: TrainSettings,
    *,
    sequences: tuple[str, ...],
    world: int,
    device: torch.device,
) -> list[list[MicroBatch]]:
    """Micro-batches of a global batch, by worker."""
    tokens = settings.micro_batch_tokens
    if tokens is None and settings.micro_batch_pairs is None:
        tokens = DEFAULT_MICRO_BATCH_TOKENS[device.type]
    return micro_batches(
        numbers,
        rows.costs(numbers, sequences),
        world=world,
        max_tokens=tokens,
        max_rows=settings.micro_batch_pairs,
    )


def batch_of(
    rows: TokenRows,
    micro: MicroBatch,
    loss: Loss,
    sequences: tuple[str, ...],
    *,
    settings: TrainSettings,
    device: torch.device,
) -> Batch:
    """The tensors of a micro-batch (on the CPU), for some of what the loss computes."""
    return collate(
        rows.take(micro.rows),
        sequences,
        values=columns_of(loss, sequences),
        filler=micro.filler,
        align=ALIGN[settings.dtype],
        one_row=choose(settings.attention, device.type) in ONE_ROW,
        whole=bool(loss.rewards),
    )


def score(
    engine: Any,
    batch: Batch,
    loss: Loss,
    device: torch.device,
    mean: Mapping[str, Tensor] | None = None,
) -> Scores:
    """The policy's log-probabilities (and rewards) of a batch, by sequence, [P] (lists: [P, K]).

    Args:
        mean: what `look_ahead` found.
    """
    found = engine(**batch.inputs(device))  # [S]; with a reward head [2, S]
    logprob, reward = found if loss.rewards else (found, None)
    value = {name: tensor.to(device) for name, tensor in batch.value.items()}

    def picked(values: Tensor, name: str) -> Tensor:
        return _gather(values, batch.sequence[name].to(device))

    columns = {name: reference_column(name) for name in batch.sequence}
    mask = batch.mask
    return Scores(
        logprob={name: picked(logprob, name) for name in batch.sequence},
        length={name: tensor.to(device) for name, tensor in batch.length.items()},
        reference={n: value[c] for n, c in columns.items() if c in value} if loss.reference else {},
        value=value,
        mask=None if mask is None else mask.to(device),
        mean=mean or {},
        reward={} if reward is None else {n: picked(reward, n) for n in loss.rewards},
    )


def _gather(logprob: Tensor, index: Tensor) -> Tensor:
    """Sequences by number; 0 where a list is shorter."""
    return logprob[index.clamp(min=0)].masked_fill(index < 0, 0.0)


@torch.no_grad()
def look_ahead(
    engine: Any,
    rows: TokenRows,
    numbers: list[int],
    loss: Loss,
    settings: TrainSettings,
    *,
    device: torch.device,
    rank: int,
    world: int,
) -> dict[str, Tensor]:
    """Means over a global batch that the loss asks for (`Ahead`), the same on every worker."""
    if loss.ahead is None:
        return {}
    sequences = loss.ahead.sequences
    sums: dict[str, Tensor] = {}
    mine = split(rows, numbers, settings, sequences=sequences, world=world, device=device)[rank]
    for micro in mine:
        batch = batch_of(rows, micro, loss, sequences, settings=settings, device=device)
        found = loss.ahead.means(score(engine, batch, loss, device), settings.loss)
        weight = batch.weight.to(device)
        for name, values in found.items():
            part = torch.where(weight > 0, values, 0.0).sum().double()
            sums[name] = sums[name] + part if name in sums else part
    vector = torch.stack(list(sums.values()))
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(vector)
    means = (vector / len(numbers)).float()
    return dict(zip(sums, means.unbind(), strict=True))


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
            share = torch.where(weight > 0, term.values, 0.0).sum() / term.count(self.counts)
            self._sum(f"terms/{name}", share)
            total = total + share
        self._sum("loss", total)
        with torch.no_grad():
            seen = dict(loss.observe(scores, settings.loss))
            seen |= {f"logprob/{name}": per_row(scores, name) for name in scores.logprob}
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


def per_row(scores: Scores, name: str) -> Tensor:
    """Log-probability of a sequence, [P]; of a list the mean over its responses."""
    logprob = scores.logprob[name]
    if logprob.dim() == 1:
        return logprob
    assert scores.mask is not None
    return logprob.sum(1) / scores.mask.sum(1)
