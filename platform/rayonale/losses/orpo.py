"""Odds ratio preference optimisation: likelihood plus the odds of chosen against rejected.

The odds are of mean log-probabilities A(y) = S(y)/|y|. Over what the likelihood runs differs:
the paper and this default take the response, TRL prompt and response (`nll_over`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rayonale.losses import dpo
from rayonale.losses.sft import NLLTerm, nll_needs, nll_term
from rayonale.losses.spec import Loss, Scores, Term

if TYPE_CHECKING:
    from torch import Tensor


def log1mexp(x: Tensor) -> Tensor:
    """log(1 − e^x) for x ≤ 0, without cancellation.

    Both branches are taken where they are exact (Mächler 2012); x within rounding of 0, where the
    value is −∞, counts as one rounding step below it, so that value and gradient stay finite.
    """
    import torch

    step = torch.finfo(x.dtype).eps
    x = x.clamp(max=-step)
    near = x > -0.6931471805599453
    # where() sends gradients through both branches: keep each away from its own pole.
    close, far = torch.where(near, x, -0.5), torch.where(near, -1.0, x)
    return torch.where(near, torch.log(-torch.expm1(close)), torch.log1p(-torch.exp(far)))


def log_odds_ratio(chosen: Tensor, rejected: Tensor) -> Tensor:
    """log of odds(y_w)/odds(y_l), odds(y) = e^A/(1 − e^A), one value a pair.

    Args:
        chosen, rejected: [P] mean log-probabilities, nats a token, ≤ 0.

    Returns:
        [P].
    """
    return (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected))


def odds_ratio(chosen: Tensor, rejected: Tensor) -> Tensor:
    """−log σ(log-odds ratio), one value a pair.

    Hong et al. 2024 (arXiv 2403.07691), eq. 7. Args and returns as `log_odds_ratio`.
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid(log_odds_ratio(chosen, rejected))


class ORPOSettings(NLLTerm):
    """Options of `orpo`: L = NLL(y_w) + λ · (−log σ(log-odds ratio)).

    Attributes:
        odds_weight: λ; 0.1 in the paper's experiments with Mistral, and TRL's default (where it
            is called beta).
    """

    name: Literal["orpo"] = "orpo"
    odds_weight: float = Field(default=0.1, ge=0)


def means(scores: Scores) -> tuple[Tensor, Tensor]:
    """A(y) of chosen and rejected."""
    return (
        scores.logprob["chosen"] / scores.length["chosen"],
        scores.logprob["rejected"] / scores.length["rejected"],
    )


def _terms(scores: Scores, settings: ORPOSettings) -> dict[str, Term]:
    return {
        "preference": Term(settings.odds_weight * odds_ratio(*means(scores))),
        "nll": nll_term(scores, settings),
    }


def _observe(scores: Scores, settings: ORPOSettings) -> dict[str, Tensor]:
    chosen, rejected = means(scores)
    return {
        **dpo.rewards(settings.odds_weight * chosen, settings.odds_weight * rejected),
        "log_odds_ratio": log_odds_ratio(chosen, rejected),
    }


LOSS = Loss(
    "orpo",
    ORPOSettings,
    sequences=("chosen", "rejected"),
    terms=_terms,
    observe=_observe,
    needs=nll_needs,
)
