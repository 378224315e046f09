"""Learning rate as a pure function of the step: nothing to store, nothing to restore."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "linear", "constant"]


def learning_rate(step: int, *, steps: int, peak: float, warmup: int, schedule: Schedule) -> float:
    """Rate of an optimiser step (0-based).

    Rises linearly over `warmup` steps and reaches the peak at step `warmup`; starts above 0,
    where a step would be wasted. Then falls, to 0 just after the last step.

    Example: 4 steps, no warm-up, linear, peak 1 → 1, ¾, ½, ¼.
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if schedule == "constant":
        return peak
    done = (step - warmup) / max(1, steps - warmup)
    if schedule == "linear":
        return peak * max(0.0, 1 - done)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
