"""RRHF: mean log-probabilities are put in the order of the scores, on lists of any length.

The paper writes the likelihood of the best response as a sum over its tokens; its code takes a
mean (over the padded width). `nll` says which: `sum` or `mean` (over the response's own tokens).
The code's `rrhf_weight` scales the ranking term, where `nll_weight` scales the other one: at 1,
as in the authors' scripts, they are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rayonale.losses.spec import Loss, LossSettings, Scores, Term

if TYPE_CHECKING:
    from torch import Tensor


def rrhf(mean_logprob: Tensor, score: Tensor, mask: Tensor) -> Tensor:
    """Σ_{r_i < r_j} max(0, A(y_i) − A(y_j)), one value a list.

    Yuan et al. 2023 (arXiv 2304.05302). No margin; equal scores ask for nothing.

    Args:
        mean_logprob: [P, K] A(y), nats a token.
        score: [P, K], higher is better.
        mask: [P, K] bool, which entries are there.

    Returns:
        [P].
    """
    worse = score[:, :, None] < score[:, None, :]  # [P, i, j]: i is worse than j
    there = mask[:, :, None] & mask[:, None, :]
    excess = (mean_logprob[:, :, None] - mean_logprob[:, None, :]).clamp(min=0)
    return (excess * (worse & there)).sum((1, 2))


def best(score: Tensor, mask: Tensor) -> Tensor:
    """[P] index of each list's highest score, the first of equal ones."""
    return score.masked_fill(~mask, float("-inf")).argmax(1)


class RRHFSettings(LossSettings):
    """Options of `rrhf`.

    Attributes:
        nll_weight: w of the best response's NLL; 1 in the authors' scripts.
        nll: `sum` (the paper) or `mean` (their code).
    """

    name: Literal["rrhf"] = "rrhf"
    nll_weight: float = Field(default=1.0, ge=0)
    nll: Literal["sum", "mean"] = "sum"


def _terms(scores: Scores, settings: RRHFSettings) -> dict[str, Term]:
    logprob, length = scores.logprob["responses"], scores.length["responses"]
    assert scores.mask is not None
    order = scores.value["scores"]
    chosen = best(order, scores.mask)[:, None]
    nll = -(logprob / length if settings.nll == "mean" else logprob).gather(1, chosen)[:, 0]
    return {
        "preference": Term(rrhf(logprob / length, order, scores.mask)),
        "nll": Term(settings.nll_weight * nll),
    }


def _observe(scores: Scores, settings: RRHFSettings) -> dict[str, Tensor]:
    """Whether the best response has the highest mean log-probability."""
    assert scores.mask is not None
    mean = scores.logprob["responses"] / scores.length["responses"]
    likeliest = mean.masked_fill(~scores.mask, float("-inf")).argmax(1)
    return {"rewards/accuracy": (likeliest == best(scores.value["scores"], scores.mask)).float()}


LOSS = Loss(
    "rrhf",
    RRHFSettings,
    sequences=("responses",),
    terms=_terms,
    observe=_observe,
    values=("scores",),
    rows="ranked_list",
)
