"""SimPO: mean log-probabilities as rewards, a target margin, no reference.

The margin is written in two ways that differ by the factor β: TRL's `simpo_gamma` is γ itself,
the authors' `gamma_beta_ratio` is γ/β. Both names are options here; give one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from rayonale.losses import dpo
from rayonale.losses.orpo import means
from rayonale.losses.spec import Loss, LossSettings, Scores, Term

if TYPE_CHECKING:
    from torch import Tensor


def simpo(chosen: Tensor, rejected: Tensor, *, beta: float, gamma: float) -> Tensor:
    """−log σ(β(A(y_w) − A(y_l)) − γ), one value a pair.

    Meng et al. 2024 (arXiv 2405.14734).

    Args:
        chosen, rejected: [P] mean log-probabilities, nats a token.
        beta: scale of the rewards, > 0.
        gamma: target margin γ, in units of the reward β·A.

    Returns:
        [P].
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * (chosen - rejected) - gamma)


class SimPOSettings(LossSettings):
    """Options of `simpo`.

    Attributes:
        beta: 2.0 as in the authors' code (TRL's default of 0.1 is for its other losses).
        simpo_gamma: γ.
        gamma_beta_ratio: γ/β; without either option 0.25, as in the authors' code.
    """

    name: Literal["simpo"] = "simpo"
    beta: float = Field(default=2.0, gt=0)
    simpo_gamma: float | None = Field(default=None, ge=0)
    gamma_beta_ratio: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one_margin(self) -> SimPOSettings:
        if self.simpo_gamma is not None and self.gamma_beta_ratio is not None:
            raise ValueError(
                f"simpo_gamma ({self.simpo_gamma}) and gamma_beta_ratio ({self.gamma_beta_ratio}) "
                "are two ways to write one margin: give one"
            )
        return self

    @property
    def margin(self) -> float:
        """γ."""
        if self.simpo_gamma is not None:
            return self.simpo_gamma
        return self.beta * (0.25 if self.gamma_beta_ratio is None else self.gamma_beta_ratio)


def _terms(scores: Scores, settings: SimPOSettings) -> dict[str, Term]:
    values = simpo(*means(scores), beta=settings.beta, gamma=settings.margin)
    return {"preference": Term(values)}


def _observe(scores: Scores, settings: SimPOSettings) -> dict[str, Tensor]:
    chosen, rejected = means(scores)
    return dpo.rewards(settings.beta * chosen, settings.beta * rejected)


LOSS = Loss(
    "simpo", SimPOSettings, sequences=("chosen", "rejected"), terms=_terms, observe=_observe
)
