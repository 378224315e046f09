"""Kahneman-Tversky optimisation: single responses with a label, no pairs.

    L = λ_D (1 − σ(β(ρ − z)))  desired         ρ = S_π(y | x) − S_ref(y | x)
        λ_U (1 − σ(β(z − ρ)))  undesired       z = max(0, mean of ρ over mismatched responses)

z estimates KL(π ‖ π_ref): each row's prompt is scored with the response of another row,
without gradient, and the mean is taken over the whole global batch, all workers and micro-batches
together. TRL takes it over the micro-batch of all workers, HALOs over a worker's. Which row the
mismatched response comes from is fixed ahead of time with its reference log-probability
(`reference_logprobs` stage); TRL fixes it too, within a batch of its sequential order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rayonale.losses.spec import Ahead, Loss, LossSettings, Scores, Term

if TYPE_CHECKING:
    from torch import Tensor


def kto(
    response: Tensor,
    reference: Tensor,
    desired: Tensor,
    kl: Tensor,
    *,
    beta: float,
    desired_weight: float = 1.0,
    undesired_weight: float = 1.0,
) -> Tensor:
    """λ_y (1 − σ(±β(ρ − z))), one value a row.

    Ethayarajh et al. 2024 (arXiv 2402.01306), the loss of section 4.

    Args:
        response, reference: [P] sums over response tokens under policy and reference, nats.
        desired: [P] 1 or 0.
        kl: scalar, mean ρ of mismatched responses, nats; negative estimates count as 0, and no
            gradient passes through it.
        beta: risk aversion, > 0.
        desired_weight, undesired_weight: λ_D, λ_U. The paper wants λ_D n_D : λ_U n_U between
            1 : 1 and 4 : 3.

    Returns:
        [P], between 0 and the larger weight.
    """
    import torch

    surprise = beta * (response - reference - kl.detach().clamp(min=0))
    # 1 − σ(x) as σ(−x): no digits are lost where σ(x) is close to 1.
    return torch.where(
        desired > 0,
        desired_weight * torch.sigmoid(-surprise),
        undesired_weight * torch.sigmoid(surprise),
    )


class KTOSettings(LossSettings):
    """Options of `kto`; defaults of the paper and TRL."""

    name: Literal["kto"] = "kto"
    beta: float = Field(default=0.1, gt=0)
    desired_weight: float = Field(default=1.0, ge=0)
    undesired_weight: float = Field(default=1.0, ge=0)


def _log_ratio_of_mismatched(scores: Scores, settings: KTOSettings) -> dict[str, Tensor]:
    return {"kl": scores.logprob["mismatched"] - scores.reference["mismatched"]}


def _terms(scores: Scores, settings: KTOSettings) -> dict[str, Term]:
    values = kto(
        scores.logprob["response"],
        scores.reference["response"],
        scores.value["label"],
        scores.mean["kl"],
        beta=settings.beta,
        desired_weight=settings.desired_weight,
        undesired_weight=settings.undesired_weight,
    )
    return {"preference": Term(values)}


def _observe(scores: Scores, settings: KTOSettings) -> dict[str, Tensor]:
    """Implicit reward, the estimate z, and whether ρ is on the label's side of z."""
    log_ratio = scores.logprob["response"] - scores.reference["response"]
    kl = scores.mean["kl"].clamp(min=0).expand_as(log_ratio)
    desired = scores.value["label"] > 0
    above, below = log_ratio > kl, log_ratio < kl  # a tie is no win
    return {
        "rewards/response": settings.beta * log_ratio,
        "rewards/accuracy": ((desired & above) | (~desired & below)).float(),
        "kl": kl,
    }


LOSS = Loss(
    "kto",
    KTOSettings,
    sequences=("response",),
    terms=_terms,
    reference=True,
    observe=_observe,
    values=("label",),
    rows="labelled",
    ahead=Ahead(("mismatched",), _log_ratio_of_mismatched),
)
