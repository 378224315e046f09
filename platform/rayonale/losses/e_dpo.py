"""Ensemble DPO: the implicit margin is regressed onto the margins of several reward models.

    L = (Δr* − βΔ)²

How M reward models make one loss is not spelled out where DRDO uses it as a baseline:

    mean_of_squares   (1/M) Σ_i (Δr_i − βΔ)²
    mean_reward       (mean_i Δr_i − βΔ)²            the same gradient, without the spread
    minimum           min_i (Δr_i − βΔ)²             each pair follows the nearest member
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rayonale.losses import dpo
from rayonale.losses.spec import Loss, LossSettings, Scores, Term

if TYPE_CHECKING:
    from torch import Tensor

Ensemble = Literal["mean_of_squares", "mean_reward", "minimum"]


def e_dpo(implicit: Tensor, oracle_gaps: Tensor, *, ensemble: Ensemble) -> Tensor:
    """Squared distance of the implicit margin from the oracles', one value a pair.

    Fisch et al. 2024 (arXiv 2405.19316); equation 4 of the DRDO paper for one reward model.

    Args:
        implicit: [P] βΔ.
        oracle_gaps: [P, M] r_i(y_w) − r_i(y_l) of M reward models, stored.

    Returns:
        [P].
    """
    if ensemble == "mean_reward":
        return (oracle_gaps.mean(1) - implicit) ** 2
    squares = (oracle_gaps - implicit[:, None]) ** 2
    return squares.mean(1) if ensemble == "mean_of_squares" else squares.min(1).values


class EDPOSettings(LossSettings):
    """Options of `e_dpo`.

    Attributes:
        beta: β; 0.1 as for DPO.
        ensemble: see the module's text; with one reward model all three are the same.
    """

    name: Literal["e_dpo"] = "e_dpo"
    beta: float = Field(default=0.1, gt=0)
    ensemble: Ensemble = "mean_of_squares"


def _gaps(scores: Scores) -> Tensor:
    return scores.value["rewards_chosen"] - scores.value["rewards_rejected"]


def _terms(scores: Scores, settings: EDPOSettings) -> dict[str, Term]:
    implicit = settings.beta * dpo.margin(*dpo.arguments(scores))
    return {"preference": Term(e_dpo(implicit, _gaps(scores), ensemble=settings.ensemble))}


def _observe(scores: Scores, settings: EDPOSettings) -> dict[str, Tensor]:
    gaps = _gaps(scores)
    return {
        **dpo.implicit_rewards(scores, settings),
        "oracle/margin": gaps.mean(1),
        "oracle/spread": gaps.std(1, correction=0),
    }


LOSS = Loss(
    "e_dpo",
    EDPOSettings,
    sequences=("chosen", "rejected"),
    terms=_terms,
    reference=True,
    observe=_observe,
    values=("rewards_chosen", "rewards_rejected"),
)
