"""Supervised fine-tuning: negative log-likelihood of the chosen response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rayonale.losses.spec import Loss, LossSettings, Scores, Term

if TYPE_CHECKING:
    from torch import Tensor


def nll_sum(logprob: Tensor) -> Tensor:
    """−S(y) = −Σ_t log π(y_t | x, y_<t), one value a row.

    Args:
        logprob: [P] sums over the response's tokens, nats.

    Returns:
        [P], nats.
    """
    return -logprob


def nll_mean(logprob: Tensor, length: Tensor) -> Tensor:
    """−A(y) = −S(y) / |y|, one value a row.

    Args:
        logprob: [P] sums over the response's tokens, nats.
        length: [P] numbers of tokens, at least 1.

    Returns:
        [P], nats a token.
    """
    return -logprob / length


class SFTSettings(LossSettings):
    """Options of `sft`.

    Attributes:
        normalise: `token` divides by the response tokens of the global batch (each token counts
            alike: as in TRL's SFTTrainer and most trainers); `sequence` takes each row's mean
            first (each row counts alike).
    """

    name: Literal["sft"] = "sft"
    normalise: Literal["token", "sequence"] = "token"


def _terms(scores: Scores, settings: SFTSettings) -> dict[str, Term]:
    logprob, length = scores.logprob["chosen"], scores.length["chosen"]
    if settings.normalise == "token":
        return {"nll": Term(nll_sum(logprob), over="chosen")}
    return {"nll": Term(nll_mean(logprob, length))}


LOSS = Loss("sft", SFTSettings, sequences=("chosen",), terms=_terms)
