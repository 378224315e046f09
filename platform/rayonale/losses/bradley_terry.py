"""The loss of a reward model (an oracle): Bradley-Terry, and the likelihood of the chosen response.

    L = −(1 − α) log σ(r(y_w) − r(y_l) − m) − α log π(y_w | x) + c (r(y_w) + r(y_l))²

r is the reward head's value at a response's last token, π the same network's language model. At
α = 0 it is the usual reward model, as in the ensembles of `e_dpo`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rayonale.losses import dpo
from rayonale.losses.sft import nll_mean, nll_sum
from rayonale.losses.spec import Loss, LossSettings, Needs, Scores, Term

if TYPE_CHECKING:
    from torch import Tensor


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """−log σ(r_w − r_l − m), one value a pair; ln 2 where rewards differ by the margin.

    Bradley & Terry 1952; the margin m as in Llama 2 (arXiv 2307.09288, eq. 2).

    Args:
        chosen, rejected: [P] rewards.
        margin: m, a number or [P].

    Returns:
        [P].
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid(chosen - rejected - margin)


def centring(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(r_w + r_l)², one value a pair: keeps rewards around 0, which differences leave open.

    Eisenstein et al. 2023 (arXiv 2312.09244), and TRL's `center_rewards_coefficient`. A head has
    no bias, so the centre has to be learnt; then it is in the weights and survives any export.

    Args and returns as `bradley_terry`.
    """
    return (chosen + rejected) ** 2


class BradleyTerrySettings(LossSettings):
    """Options of `bradley_terry`; defaults of the DRDO paper's oracle (its eq. 5).

    Attributes:
        alpha: α, share of the likelihood term; 0 is plain Bradley-Terry.
        nll: log π(y_w | x) as a `sum` over the response's tokens, as the paper writes it, or
            their `mean`.
        margin: a number that the chosen reward must be ahead by.
        margin_scale: adds this times the stored scores' gap (`score_chosen` − `score_rejected`)
            to the margin of each pair.
        centring: c; TRL suggests 0.01.
    """

    name: Literal["bradley_terry"] = "bradley_terry"
    alpha: float = Field(default=0.01, ge=0, lt=1)
    nll: Literal["sum", "mean"] = "sum"
    margin: float = Field(default=0.0, ge=0)
    margin_scale: float = Field(default=0.0, ge=0)
    centring: float = Field(default=0.0, ge=0)


def _needs(settings: BradleyTerrySettings) -> Needs:
    return (), (("score_chosen", "score_rejected") if settings.margin_scale else ())


def _terms(scores: Scores, settings: BradleyTerrySettings) -> dict[str, Term]:
    chosen, rejected = scores.reward["chosen"], scores.reward["rejected"]
    margin: Tensor | float = settings.margin
    if settings.margin_scale:
        gap = scores.value["score_chosen"] - scores.value["score_rejected"]
        margin = margin + settings.margin_scale * gap
    logprob, length = scores.logprob["chosen"], scores.length["chosen"]
    nll = nll_sum(logprob) if settings.nll == "sum" else nll_mean(logprob, length)
    found = {"preference": Term((1 - settings.alpha) * bradley_terry(chosen, rejected, margin))}
    if settings.alpha:
        found["nll"] = Term(settings.alpha * nll)
    if settings.centring:
        found["centring"] = Term(settings.centring * centring(chosen, rejected))
    return found


def observe(scores: Scores, settings: LossSettings) -> dict[str, Tensor]:
    """The head's rewards of both responses, their margin, and whether it is on the right side."""
    return dpo.rewards(scores.reward["chosen"], scores.reward["rejected"])


LOSS = Loss(
    "bradley_terry",
    BradleyTerrySettings,
    sequences=("chosen", "rejected"),
    terms=_terms,
    observe=observe,
    needs=_needs,
    rewards=("chosen", "rejected"),
    reward_model=True,
)
