"""Reward-aware preference optimisation: the implicit margin follows the scores' margin.

What TRL's documentation calls RPO, DPO with an added NLL term, is another thing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rayonale.losses import dpo
from rayonale.losses.spec import Loss, LossSettings, Scores, Term

if TYPE_CHECKING:
    from torch import Tensor


def bernoulli_kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """KL(Bernoulli(σ(p)) ‖ Bernoulli(σ(q))), elementwise, ≥ 0."""
    from torch.nn.functional import logsigmoid

    return p_logits.sigmoid() * (logsigmoid(p_logits) - logsigmoid(q_logits)) + (
        -p_logits
    ).sigmoid() * (logsigmoid(-p_logits) - logsigmoid(-q_logits))


def rpo(implicit: Tensor, given: Tensor, *, distance: Literal["bwd_kl", "fwd_kl", "sq"]) -> Tensor:
    """Distance of two reward margins, one value a pair; 0 where they are equal.

    NVIDIA 2024 (Nemotron-4 340B report, arXiv 2406.11704) and NeMo-Aligner, whose
    names the distances have:

        bwd_kl   σ(b) log(σ(b)/σ(a)) + σ(−b) log(σ(−b)/σ(−a))
        fwd_kl   the same with a and b exchanged
        sq       (a − b)²

    Args:
        implicit: [P] a = βΔ.
        given: [P] b = η(r_w − r_l); negative where the scores contradict the label.

    Returns:
        [P].
    """
    if distance == "sq":
        return (implicit - given) ** 2
    return bernoulli_kl(given, implicit) if distance == "bwd_kl" else bernoulli_kl(implicit, given)


class RPOSettings(LossSettings):
    """Options of `rpo`; defaults of NeMo-Aligner.

    Attributes:
        eta: η, scale of the scores; at 0 the margin is pulled to nought.
        distance: `bwd_kl` (as in the report), `fwd_kl` or `sq`.
    """

    name: Literal["rpo"] = "rpo"
    beta: float = Field(default=0.2, gt=0)
    eta: float = Field(default=1.0, gt=0)
    distance: Literal["bwd_kl", "fwd_kl", "sq"] = "bwd_kl"


def _terms(scores: Scores, settings: RPOSettings) -> dict[str, Term]:
    implicit = settings.beta * dpo.margin(*dpo.arguments(scores))
    given = settings.eta * (scores.value["score_chosen"] - scores.value["score_rejected"])
    return {"preference": Term(rpo(implicit, given, distance=settings.distance))}


LOSS = Loss(
    "rpo",
    RPOSettings,
    sequences=("chosen", "rejected"),
    terms=_terms,
    reference=True,
    observe=dpo.implicit_rewards,
    values=("score_chosen", "score_rejected"),
)
