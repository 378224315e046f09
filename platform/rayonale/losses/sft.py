"""Supervised fine-tuning: negative log-likelihood of the chosen response.

The same likelihood is a term of ORPO and CPO (`NLLTerm`), where libraries differ in what it runs
over and what it is divided by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rayonale.losses.spec import Loss, LossSettings, Needs, Scores, Term

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


class NLLTerm(LossSettings):
    """Options of a loss that adds the likelihood of the chosen response.

    Attributes:
        nll_over: `response`, or `prompt_and_response` as TRL's ORPO has it (its CPO: `response`).
        nll_normalise: `token` divides by the tokens of the global batch (TRL: of each
            micro-batch), `sequence` takes each row's mean first.
    """

    nll_over: Literal["response", "prompt_and_response"] = "response"
    nll_normalise: Literal["token", "sequence"] = "token"


def nll_needs(settings: NLLTerm) -> Needs:
    """What `nll_term` reads beside the chosen response."""
    return (("prompt",) if settings.nll_over == "prompt_and_response" else ()), ()


def nll_term(scores: Scores, settings: NLLTerm, weight: float = 1.0) -> Term:
    """λ · NLL(y_w), over and divided by what the settings say."""
    over = ("chosen", "prompt") if settings.nll_over == "prompt_and_response" else ("chosen",)
    logprob = sum((scores.logprob[n] for n in over[1:]), start=scores.logprob["chosen"])
    length = sum((scores.length[n] for n in over[1:]), start=scores.length["chosen"])
    if settings.nll_normalise == "token":
        return Term(weight * nll_sum(logprob), over=over)
    return Term(weight * nll_mean(logprob, length))


LOSS = Loss("sft", SFTSettings, sequences=("chosen",), terms=_terms)
