"""Hinge losses: SLiC-HF, without a reference, and the hinge on DPO's margin.

What TRL's DPOTrainer calls `hinge` is `hinge` here; SLiC-HF itself has no reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rayonale.losses import dpo
from rayonale.losses.sft import nll_sum
from rayonale.losses.spec import Loss, LossSettings, Scores, Term

if TYPE_CHECKING:
    from torch import Tensor


def slic(chosen: Tensor, rejected: Tensor, *, delta: float) -> Tensor:
    """max(0, δ − S(y_w) + S(y_l)), one value a pair: SLiC-HF's rank calibration.

    Zhao et al. 2023 (arXiv 2305.10425).

    Args:
        chosen, rejected: [P] sums over response tokens, nats.
        delta: the margin that is enough, nats.

    Returns:
        [P].
    """
    return (delta - chosen + rejected).clamp(min=0)


def hinge(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float
) -> Tensor:
    """max(0, 1 − βΔ), one value a pair.

    Liu et al. 2023 (arXiv 2309.06657), "hinge-norm" of RSO; TRL's `hinge`.

    Args and returns as `dpo.dpo`.
    """
    return (1 - beta * dpo.margin(chosen, rejected, ref_chosen, ref_rejected)).clamp(min=0)


class SLiCSettings(LossSettings):
    """Options of `slic`; defaults of HALOs.

    Attributes:
        delta: δ, nats.
        nll_weight: λ of the chosen response's NLL, a sum over its tokens (as in HALOs). The paper
            regularises with its SFT data instead.
    """

    name: Literal["slic"] = "slic"
    delta: float = Field(default=1.0, ge=0)
    nll_weight: float = Field(default=0.1, ge=0)


class HingeSettings(LossSettings):
    """Options of `hinge`."""

    name: Literal["hinge"] = "hinge"
    beta: float = Field(default=0.1, gt=0)


def _terms(scores: Scores, settings: SLiCSettings) -> dict[str, Term]:
    chosen, rejected = scores.logprob["chosen"], scores.logprob["rejected"]
    return {
        "preference": Term(slic(chosen, rejected, delta=settings.delta)),
        "nll": Term(settings.nll_weight * nll_sum(chosen)),
    }


def _hinge_terms(scores: Scores, settings: HingeSettings) -> dict[str, Term]:
    return {"preference": Term(hinge(*dpo.arguments(scores), beta=settings.beta))}


def _observe(scores: Scores, settings: SLiCSettings) -> dict[str, Tensor]:
    return dpo.rewards(scores.logprob["chosen"], scores.logprob["rejected"])


LOSS = Loss("slic", SLiCSettings, sequences=("chosen", "rejected"), terms=_terms, observe=_observe)
HINGE = Loss(
    "hinge",
    HingeSettings,
    sequences=("chosen", "rejected"),
    terms=_hinge_terms,
    reference=True,
    observe=dpo.implicit_rewards,
)
