"""Self-play preference optimisation: each log-ratio is regressed onto its probability to win.

TRL's `sppo_hard` lacks the factor ½ and has P = 1 and 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rayonale.losses import dpo
from rayonale.losses.spec import Loss, LossSettings, Needs, Scores, Term

if TYPE_CHECKING:
    from torch import Tensor


def sppo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    probability: Tensor,
    *,
    eta: float,
) -> Tensor:
    """½[(ρ(y_w) − η(P − ½))² + (ρ(y_l) − η(½ − P))²], one value a pair.

    Wu et al. 2024 (arXiv 2405.00675), eq. 4.7 on the two responses of a pair.

    Args:
        chosen, rejected, ref_chosen, ref_rejected: [P] sums over response tokens, nats.
        probability: [P] P(y_w ≻ y_l), 0–1.
        eta: η, nats; 1/β of other notations.

    Returns:
        [P], nats².
    """
    aim = eta * (probability - 0.5)
    return 0.5 * ((chosen - ref_chosen - aim) ** 2 + (rejected - ref_rejected + aim) ** 2)


class SPPOSettings(LossSettings):
    """Options of `sppo`.

    Attributes:
        eta: η; 1,000 in the paper (β = 0.001).
        probability: P(y_w ≻ y_l): `hard` takes 1, `scores` σ(score_chosen − score_rejected)
            (Bradley-Terry), `column` the rows' `preference_probability` (a judge's, as in the
            paper).
    """

    name: Literal["sppo"] = "sppo"
    eta: float = Field(default=1_000.0, gt=0)
    probability: Literal["hard", "scores", "column"] = "hard"


_COLUMNS: dict[str, tuple[str, ...]] = {
    "hard": (),
    "scores": ("score_chosen", "score_rejected"),
    "column": ("preference_probability",),
}


def probability_of(scores: Scores, settings: SPPOSettings) -> Tensor:
    """P(y_w ≻ y_l) of each pair, [P]."""
    import torch

    if settings.probability == "hard":
        return torch.ones_like(scores.logprob["chosen"])
    if settings.probability == "column":
        return scores.value["preference_probability"]
    return torch.sigmoid(scores.value["score_chosen"] - scores.value["score_rejected"])


def _terms(scores: Scores, settings: SPPOSettings) -> dict[str, Term]:
    probability = probability_of(scores, settings)
    return {"preference": Term(sppo(*dpo.arguments(scores), probability, eta=settings.eta))}


def _observe(scores: Scores, settings: SPPOSettings) -> dict[str, Tensor]:
    chosen, rejected, ref_chosen, ref_rejected = dpo.arguments(scores)
    return dpo.rewards(
        (chosen - ref_chosen) / settings.eta, (rejected - ref_rejected) / settings.eta
    )


def _needs(settings: SPPOSettings) -> Needs:
    return (), _COLUMNS[settings.probability]


LOSS = Loss(
    "sppo",
    SPPOSettings,
    sequences=("chosen", "rejected"),
    terms=_terms,
    reference=True,
    observe=_observe,
    needs=_needs,
)
