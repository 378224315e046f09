"""Length-regularised DPO, which its authors call R-DPO (not RDPO, DPO with rationales)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rayonale.losses import dpo
from rayonale.losses.spec import Loss, LossSettings, Scores, Term

if TYPE_CHECKING:
    from torch import Tensor


def length_dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    chosen_length: Tensor,
    rejected_length: Tensor,
    beta: float,
    alpha: float,
) -> Tensor:
    """−log σ(βΔ + α(|y_w| − |y_l|)), one value a pair.

    Park et al. 2024 (arXiv 2403.19159): a chosen response that is longer needs less of a
    margin, since its length explains a part of the preference.

    Args:
        chosen, rejected, ref_chosen, ref_rejected: [P] sums over response tokens, nats.
        chosen_length, rejected_length: [P] tokens.
        beta: strength of the tie to the reference, > 0.
        alpha: reward that a token is taken to be worth to the annotator, ≥ 0; 0 is `dpo`.

    Returns:
        [P].
    """
    from torch.nn.functional import logsigmoid

    delta = dpo.margin(chosen, rejected, ref_chosen, ref_rejected)
    return -logsigmoid(beta * delta + alpha * (chosen_length - rejected_length))


class LengthDPOSettings(LossSettings):
    """Options of `length_dpo`.

    Attributes:
        beta: 0.1.
        alpha: α a token. The paper tunes it for each data set; the default, ours, takes ten tokens
            to be worth a reward of 0.1.
    """

    name: Literal["length_dpo"] = "length_dpo"
    beta: float = Field(default=0.1, gt=0)
    alpha: float = Field(default=0.01, ge=0)


def _terms(scores: Scores, settings: LengthDPOSettings) -> dict[str, Term]:
    values = length_dpo(
        *dpo.arguments(scores),
        chosen_length=scores.length["chosen"],
        rejected_length=scores.length["rejected"],
        beta=settings.beta,
        alpha=settings.alpha,
    )
    return {"preference": Term(values)}


LOSS = Loss(
    "length_dpo",
    LengthDPOSettings,
    sequences=("chosen", "rejected"),
    terms=_terms,
    reference=True,
    observe=dpo.implicit_rewards,
)
