"""DRDO: the student's own reward head learns an oracle's rewards while its language model learns
the preference; no reference model.

    L = (Δr* − Δr̂)² − α (1 − p_w)^γ · log(π(y_w) / (1 − π(y_l))),    p_w = σ(z_w − z_l)

z = log π(y | x) is the sum over the response's tokens (appendix A.5 of the paper). Then 1 − π(y_l)
is 1 to machine precision, and the second term is a focal-weighted likelihood of the chosen
response. With the mean (`z: mean`, as in ORPO's odds) 1 − π(y_l) is felt; note its direction: the
formula as printed is lower where π(y_l) is *higher* (the paper's eq. 33 calls that part of the
gradient "decrease", which its sign is not), and only the focal weight pushes y_l down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rayonale.losses import bradley_terry
from rayonale.losses.orpo import log1mexp, means
from rayonale.losses.spec import Loss, LossSettings, Scores, Term

if TYPE_CHECKING:
    from torch import Tensor


def distillation(oracle_gap: Tensor, student_gap: Tensor) -> Tensor:
    """(Δr* − Δr̂)², one value a pair.

    Args:
        oracle_gap: [P] r*(y_w) − r*(y_l), stored; negative where the oracle contradicts the label.
        student_gap: [P] r̂(y_w) − r̂(y_l), of the student's head.

    Returns:
        [P].
    """
    return (oracle_gap - student_gap) ** 2


def focal_preference(
    chosen: Tensor, rejected: Tensor, *, gamma: float, detach: bool = False
) -> Tensor:
    """−(1 − p_w)^γ · (z_w − log(1 − e^{z_l})), one value a pair; ≥ 0 for a hopeless z_l.

    The preference term of the DRDO paper's eq. 6.

    Args:
        chosen, rejected: [P] z_w and z_l, nats, ≤ 0.
        gamma: γ; 0 weighs all pairs alike.
        detach: no gradient through the weight (the paper's goes through it).

    Returns:
        [P].
    """
    from torch.nn.functional import logsigmoid

    # 1 − p_w = σ(z_l − z_w); its power as exp(γ log σ): no digits are lost where p_w is near 1.
    weight = (gamma * logsigmoid(rejected - chosen)).exp()
    if detach:
        weight = weight.detach()
    return -weight * (chosen - log1mexp(rejected))


class DRDOSettings(LossSettings):
    """Options of `drdo`; the paper's defaults (it swept α ∈ {0.1, 1}, γ ∈ {0, 1, 2, 5}).

    Attributes:
        alpha: α, weight of the preference term.
        gamma: γ, of the focal weight.
        z: log π(y | x) as a `sum` over tokens (the paper's appendix) or their `mean`.
        detach_focal: no gradient through the focal weight.
    """

    name: Literal["drdo"] = "drdo"
    alpha: float = Field(default=0.1, ge=0)
    gamma: float = Field(default=2.0, ge=0)
    z: Literal["sum", "mean"] = "sum"
    detach_focal: bool = False


def _terms(scores: Scores, settings: DRDOSettings) -> dict[str, Term]:
    oracle = scores.value["reward_chosen"] - scores.value["reward_rejected"]
    student = scores.reward["chosen"] - scores.reward["rejected"]
    sums = scores.logprob["chosen"], scores.logprob["rejected"]
    preference = focal_preference(
        *(sums if settings.z == "sum" else means(scores)),
        gamma=settings.gamma,
        detach=settings.detach_focal,
    )
    return {
        "distillation": Term(distillation(oracle, student)),
        "preference": Term(settings.alpha * preference),
    }


def _observe(scores: Scores, settings: DRDOSettings) -> dict[str, Tensor]:
    """The student's rewards, p_w, and how often oracle and student order a pair alike."""
    sums = scores.logprob["chosen"], scores.logprob["rejected"]
    chosen, rejected = sums if settings.z == "sum" else means(scores)
    oracle = scores.value["reward_chosen"] - scores.value["reward_rejected"]
    student = scores.reward["chosen"] - scores.reward["rejected"]
    return {
        **bradley_terry.observe(scores, settings),
        "p_w": (chosen - rejected).sigmoid(),
        "oracle/margin": oracle,
        "oracle/agreement": (oracle * student > 0).float(),
    }


LOSS = Loss(
    "drdo",
    DRDOSettings,
    sequences=("chosen", "rejected"),
    terms=_terms,
    observe=_observe,
    values=("reward_chosen", "reward_rejected"),
    rewards=("chosen", "rejected"),
)
