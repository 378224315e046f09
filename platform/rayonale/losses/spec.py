"""What a loss is: a pure function of log-probabilities, and what it needs to be computed.

Legend used by all losses: P rows (pairs, labelled responses, lists) of a micro-batch, K responses
of the longest list; tensors are [P] float32, of lists [P, K] with a mask; log-probabilities are
sums over a response's tokens in nats, end of turn included.

    Batch ─ Policy ─► Scores ─ Loss.terms ─► {name: Term [P]} ─ the loop normalises ─► scalar

A loss returns one value a pair and says over what each term is averaged; the loop divides by
the count of the *global* batch, so that the gradient does not depend on how rows fall onto
workers and micro-batches. What a loss must know of the whole global batch before it can be
computed (KTO's estimate of the KL divergence) is a mean that the loop takes ahead: `Ahead`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
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
        logprob: sequence name (`chosen`, `rejected`, `rationale` …) → S_π, [P] nats; of
            `responses` [P, K], 0 where a list has fewer.
        length: sequence name → number of its tokens, [P]; of `responses` [P, K], 1 where a list
            has fewer.
        reference: sequence name → S_ref, shaped as `logprob`; empty for losses without one.
        reward: sequence name → the reward head's value at the response's last token (its end of
            turn), shaped as `logprob`; of the sequences that the loss asks for.
        value: further columns of the rows by name (scores, labels …), [P] or [P, K].
        mask: [P, K] bool, which entries of lists are there; None where rows are no lists.
        mean: means over the global batch that the loss asked for (`Ahead`), scalars.
    """

    logprob: Mapping[str, Tensor]
    length: Mapping[str, Tensor]
    reference: Mapping[str, Tensor] = field(default_factory=dict)
    value: Mapping[str, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None
    mean: Mapping[str, Tensor] = field(default_factory=dict)
    reward: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Term:
    """One summand of a loss, its weight included.

    Attributes:
        values: [P] float32.
        over: what the sum over the global batch is divided by: `pairs` (its rows), or names of
            sequences (the number of their tokens).
    """

    values: Tensor
    over: str | tuple[str, ...] = PAIRS

    def count(self, counts: Mapping[str, float]) -> float:
        """What to divide by, given the global batch's number of rows and of tokens by sequence."""
        names = (self.over,) if isinstance(self.over, str) else self.over
        return sum(counts[name] for name in names)


@dataclass(frozen=True)
class Ahead:
    """Means over the whole global batch, taken without gradient before the loss is computed.

    Attributes:
        sequences: what the extra forward pass computes.
        means: (scores, settings) → {name: [P]}; `Scores.mean` has their means over all rows of
            the global batch, on all workers.
    """

    sequences: tuple[str, ...]
    means: Callable[[Scores, Any], dict[str, Tensor]]


Needs = tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True)
class Loss:
    """A loss as the trainer sees it.

    Attributes:
        name: as recipes write it.
        settings: its typed options.
        sequences: the responses that it reads; the batcher computes these and no others.
            `prompt` among them stands for the prompt's own tokens (the first, which nothing
            predicts, apart).
        reference: whether `Scores.reference` must hold these sequences.
        terms: (scores, settings) → {term name: Term}; the loss is their sum.
        observe: (scores, settings) → {metric name: [P] tensor}, averaged over rows and logged.
        values: numeric columns of the rows that it reads (`score_chosen` …).
        rows: the type of rows (`records.ROW_TYPES`) that it reads.
        ahead: what it must know of the global batch beforehand.
        needs: settings → further sequences and columns, where options decide what is read.
        rewards: sequences whose reward it reads: the model then has a reward head, and responses
            go into it whole.
        reward_model: what it trains is a reward model, whose head is exported with it.
    """

    name: str
    settings: type[LossSettings]
    sequences: tuple[str, ...]
    terms: Callable[[Scores, Any], dict[str, Term]]
    reference: bool = False
    observe: Callable[[Scores, Any], dict[str, Tensor]] = lambda scores, settings: {}
    values: tuple[str, ...] = ()
    rows: str = "pair"
    ahead: Ahead | None = None
    needs: Callable[[Any], Needs] = lambda settings: ((), ())
    rewards: tuple[str, ...] = ()
    reward_model: bool = False

    def with_options(self, settings: LossSettings) -> Loss:
        """The loss with everything that it reads under these options."""
        sequences, values = self.needs(settings)
        return replace(
            self, sequences=(*self.sequences, *sequences), values=(*self.values, *values)
        )
