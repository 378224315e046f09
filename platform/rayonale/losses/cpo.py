"""Contrastive preference optimisation: DPO without its reference, plus likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rayonale.losses import dpo
from rayonale.losses.sft import NLLTerm, nll_needs, nll_term
from rayonale.losses.spec import Loss, Scores, Term

if TYPE_CHECKING:
    from torch import Tensor


def cpo(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """−log σ(β(S(y_w) − S(y_l))), one value a pair.

    Xu et al. 2024 (arXiv 2401.08417), eq. 3.

    Args:
        chosen, rejected: [P] sums over response tokens, nats.
        beta: temperature, > 0.

    Returns:
        [P].
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * (chosen - rejected))


class CPOSettings(NLLTerm):
    """Options of `cpo`: the preference term + λ · NLL(y_w).

    Attributes:
        beta: 0.1 as in the paper and TRL.
        nll_weight: λ; 1 in the paper, TRL's cpo_alpha.
    """

    name: Literal["cpo"] = "cpo"
    beta: float = Field(default=0.1, gt=0)
    nll_weight: float = Field(default=1.0, ge=0)


def _terms(scores: Scores, settings: CPOSettings) -> dict[str, Term]:
    chosen, rejected = scores.logprob["chosen"], scores.logprob["rejected"]
    return {
        "preference": Term(cpo(chosen, rejected, beta=settings.beta)),
        "nll": nll_term(scores, settings, settings.nll_weight),
    }


def _observe(scores: Scores, settings: CPOSettings) -> dict[str, Tensor]:
    chosen, rejected = scores.logprob["chosen"], scores.logprob["rejected"]
    return dpo.rewards(settings.beta * chosen, settings.beta * rejected)


LOSS = Loss(
    "cpo",
    CPOSettings,
    sequences=("chosen", "rejected"),
    terms=_terms,
    observe=_observe,
    needs=nll_needs,
)
