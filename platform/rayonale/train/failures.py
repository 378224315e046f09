"""Failures of a step that a person can mend: which step, what was found, what to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rayonale.train.settings import TrainSettings

# How torch says on a CPU that an allocation failed; on CUDA it has a class of its own.
_CPU = ("DefaultCPUAllocator", "can't allocate memory", "not enough memory")


@contextmanager
def naming_memory(step: int, settings: TrainSettings) -> Iterator[None]:
    """Name the step and the remedies when memory runs out while the block runs.

    Raises:
        MemoryError: in place of torch's error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(
            f"step {step}: memory ran out ({str(error).splitlines()[0]}). The last checkpoint is "
            f"intact. Remedies: {', '.join(remedies(settings))}; then the same command goes on"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed, on a CPU or a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _CPU)


def remedies(settings: TrainSettings) -> list[str]:
    """What takes less memory than these settings and gives the same training, cheapest first."""
    found = []
    if settings.micro_batch_pairs is None:
        now = settings.micro_batch_tokens or "the default"
        found.append(f"a lower micro_batch_tokens (now {now})")
    elif settings.micro_batch_pairs > 1:
        found.append(f"a lower micro_batch_pairs (now {settings.micro_batch_pairs})")
    if not settings.gradient_checkpointing:
        found.append("gradient_checkpointing: true")
    if settings.zero_stage < 3:
        found.append(f"a higher zero_stage (now {settings.zero_stage}) on more workers")
    if settings.lora is None:
        found.append("lora")
    return [*found, f"a lower max_length (now {settings.max_length})"]
