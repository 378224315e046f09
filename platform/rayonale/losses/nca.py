"""Noise contrastive alignment: InfoNCA and NCA, on lists with scores; NCA on pairs.

Chen et al. 2024 (arXiv 2402.05369). InfoNCA compares responses of one list only (a softmax, as
DPO does: its pair form with hard labels is DPO); NCA also fixes each response's own likelihood.

    p = softmax(r/τ)     ρ(y) = S_π(y) − S_ref(y)     K responses of the list
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rayonale.losses import dpo
from rayonale.losses.spec import Loss, LossSettings, Scores, Term

if TYPE_CHECKING:
    from torch import Tensor


def target(score: Tensor, mask: Tensor, *, tau: float) -> Tensor:
    """p = softmax(r/τ) over the entries that are there, [P, K]; 0 elsewhere."""
    return (score / tau).masked_fill(~mask, float("-inf")).softmax(1)


def infonca(
    responses: Tensor, reference: Tensor, score: Tensor, mask: Tensor, *, beta: float, tau: float
) -> Tensor:
    """−Σ_i p_i log softmax(βρ)_i, one value a list.

    Args:
        responses, reference: [P, K] sums over response tokens, nats.
        score: [P, K], higher is better.
        mask: [P, K] bool, which entries are there.
        beta: strength of the tie to the reference, > 0.
        tau: temperature of the scores, > 0, in their unit.

    Returns:
        [P]; log K at policy = reference.
    """
    logits = (beta * (responses - reference)).masked_fill(~mask, float("-inf"))
    # Entries that are not there have p = 0; 0 · −∞ would be NaN.
    return -(target(score, mask, tau=tau) * logits.log_softmax(1).masked_fill(~mask, 0.0)).sum(1)


def nca(
    responses: Tensor, reference: Tensor, score: Tensor, mask: Tensor, *, beta: float, tau: float
) -> Tensor:
    """−Σ_i p_i log σ(βρ_i) − (1/K) Σ_i log σ(−βρ_i), one value a list.

    Args and returns as `infonca`; 2 ln 2 at policy = reference.
    """
    from torch.nn.functional import logsigmoid

    reward = (beta * (responses - reference)).masked_fill(~mask, 0.0)
    up = (target(score, mask, tau=tau) * logsigmoid(reward)).sum(1)
    down = (logsigmoid(-reward) * mask).sum(1) / mask.sum(1)
    return -up - down


def nca_pair(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float
) -> Tensor:
    """−log σ(βρ_w) − ½ log σ(−βρ_w) − ½ log σ(−βρ_l), one value a pair; TRL's `nca_pair`.

    Args and returns as `dpo.dpo`.
    """
    from torch.nn.functional import logsigmoid

    reward_chosen, reward_rejected = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)
    down = logsigmoid(-reward_chosen) + logsigmoid(-reward_rejected)
    return -logsigmoid(reward_chosen) - 0.5 * down


class NCAPairSettings(LossSettings):
    """Options of `nca_pair`; β of the authors' scripts."""

    name: Literal["nca_pair"] = "nca_pair"
    beta: float = Field(default=0.01, gt=0)


class ListSettings(LossSettings):
    """Options of both losses of lists; defaults of the authors' scripts.

    Attributes:
        tau: temperature of the scores. The authors' 1e-4 makes p one-hot unless scores are equal;
            1 lets scores that lie a unit apart share.
    """

    beta: float = Field(default=0.01, gt=0)
    tau: float = Field(default=1e-4, gt=0)


class NCASettings(ListSettings):
    """Options of `nca`."""

    name: Literal["nca"] = "nca"


class InfoNCASettings(ListSettings):
    """Options of `infonca`."""

    name: Literal["infonca"] = "infonca"


def _lists(scores: Scores) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    assert scores.mask is not None
    logprob, reference = scores.logprob["responses"], scores.reference["responses"]
    return logprob, reference, scores.value["scores"], scores.mask


def _nca_terms(scores: Scores, settings: NCASettings) -> dict[str, Term]:
    return {"preference": Term(nca(*_lists(scores), beta=settings.beta, tau=settings.tau))}


def _infonca_terms(scores: Scores, settings: InfoNCASettings) -> dict[str, Term]:
    return {"preference": Term(infonca(*_lists(scores), beta=settings.beta, tau=settings.tau))}


def _pair_terms(scores: Scores, settings: NCAPairSettings) -> dict[str, Term]:
    return {"preference": Term(nca_pair(*dpo.arguments(scores), beta=settings.beta))}


def _observe(scores: Scores, settings: ListSettings) -> dict[str, Tensor]:
    """Implicit reward of the best response, its lead over the others' mean, and accuracy."""
    responses, reference, score, mask = _lists(scores)
    reward = settings.beta * (responses - reference)
    first = score.masked_fill(~mask, float("-inf")).argmax(1, keepdim=True)
    best = reward.gather(1, first)[:, 0]
    others = mask.scatter(1, first, False)
    lead = best - (reward * others).sum(1) / others.sum(1).clamp(min=1)
    highest = reward.masked_fill(~others, float("-inf")).amax(1)
    return {
        "rewards/best": best,
        "rewards/margin": lead,
        "rewards/accuracy": (best > highest).float(),
    }


PAIR = Loss(
    "nca_pair",
    NCAPairSettings,
    sequences=("chosen", "rejected"),
    terms=_pair_terms,
    reference=True,
    observe=dpo.implicit_rewards,
)
LOSS = Loss(
    "nca",
    NCASettings,
    sequences=("responses",),
    terms=_nca_terms,
    reference=True,
    observe=_observe,
    values=("scores",),
    rows="ranked_list",
)
INFONCA = Loss(
    "infonca",
    InfoNCASettings,
    sequences=("responses",),
    terms=_infonca_terms,
    reference=True,
    observe=_observe,
    values=("scores",),
    rows="ranked_list",
)
