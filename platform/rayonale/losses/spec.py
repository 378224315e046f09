"""What a loss is: a pure function of log-probabilities, and what it needs to be computed.

Legend used by all losses: P pairs (or rows) of a micro-batch; every tensor is [P] float32;
log-probabilities are sums over a response's tokens in nats, end of turn included.

    Batch ─ Policy ─► Scores ─ Loss.terms ─► {name: Term [P]} ─ the loop normalises ─► scalar

A loss returns one value a pair and says over what each term is averaged; the loop divides by
the count of the *global* batch, so that the gradient does not depend on how rows fall onto
workers and micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:  # settings are read in processes that need no torch, which takes seconds
    from torch import Tensor

PAIRS = "pairs"


class LossSettings(BaseModel):
    """Base of every loss's settings; options that a loss does not use are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str


@dataclass(frozen=True)
class Scores:
    """What the policy (and the reference, ahead of time) gave the sequences of P rows.

    Attributes:
        logprob: sequence name (`chosen`, `rejected`, `rationale` …) → S_π, [P] nats.
        length: sequence name → number of its tokens, [P].
        reference: sequence name → S_ref, [P] nats; empty for losses without a reference.
        value: further columns of the rows by name (scores, labels …), [P].
    """

    logprob: Mapping[str, Tensor]
    length: Mapping[str, Tensor]
    reference: Mapping[str, Tensor] = field(default_factory=dict)
    value: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Term:
    """One summand of a loss, its weight included.

    Attributes:
        values: [P] float32.
        over: what the sum over the global batch is divided by: `pairs` (its rows), or the name
            of a sequence (the number of that sequence's tokens).
    """

    values: Tensor
    over: str = PAIRS


@dataclass(frozen=True)
class Loss:
    """A loss as the trainer sees it.

    Attributes:
        name: as recipes write it.
        settings: its typed options.
        sequences: the responses that it reads; the batcher computes these and no others.
        reference: whether `Scores.reference` must hold chosen and rejected.
        terms: (scores, settings) → {term name: Term}; the loss is their sum.
        observe: (scores, settings) → {metric name: [P] tensor}, averaged over rows and logged.
        values: numeric columns of the rows that it reads (`score_chosen` …).
    """

    name: str
    settings: type[LossSettings]
    sequences: tuple[str, ...]
    terms: Callable[[Scores, Any], dict[str, Term]]
    reference: bool = False
    observe: Callable[[Scores, Any], dict[str, Tensor]] = lambda scores, settings: {}
    values: tuple[str, ...] = ()
