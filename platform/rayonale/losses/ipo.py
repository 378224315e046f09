"""Identity preference optimisation: the margin is regressed onto a finite target.

Libraries differ in what the margin is made of. TRL (since 0.29) and HALOs divide each log-ratio
by its response's length, and say that the paper's results were made so; OpenRLHF and the letter
of the paper sum. `length` says which: `normalised` or `summed`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rayonale.losses import dpo
from rayonale.losses.spec import Loss, LossSettings, Scores, Term

if TYPE_CHECKING:
    from torch import Tensor


def ipo(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, tau: float
) -> Tensor:
    """(Δ − 1/(2τ))², one value a pair.

    Azar et al. 2023 (arXiv 2310.12036), eq. 17.

    Args:
        chosen, rejected, ref_chosen, ref_rejected: [P] nats; sums over response tokens, or means
            (nats a token) for the length-normalised form.
        tau: strength of the tie to the reference, > 0; the margin aimed at is 1/(2τ).

    Returns:
        [P].
    """
    return (dpo.margin(chosen, rejected, ref_chosen, ref_rejected) - 1 / (2 * tau)) ** 2


class IPOSettings(LossSettings):
    """Options of `ipo`.

    Attributes:
        tau: τ; TRL calls it beta. 0.1 is TRL's default.
        length: `normalised` (TRL, HALOs) or `summed` (OpenRLHF). At τ = 0.1 the target is 5: nats
            a token, or nats.
    """

    name: Literal["ipo"] = "ipo"
    tau: float = Field(default=0.1, gt=0)
    length: Literal["normalised", "summed"] = "normalised"


def log_probabilities(scores: Scores, settings: IPOSettings) -> tuple[Tensor, ...]:
    """Chosen, rejected and the reference's, in the unit of the settings."""
    sums = dpo.arguments(scores)
    if settings.length == "summed":
        return sums
    chosen, rejected = scores.length["chosen"], scores.length["rejected"]
    return tuple(s / n for s, n in zip(sums, (chosen, rejected) * 2, strict=True))


def _terms(scores: Scores, settings: IPOSettings) -> dict[str, Term]:
    return {"preference": Term(ipo(*log_probabilities(scores, settings), tau=settings.tau))}


def _observe(scores: Scores, settings: IPOSettings) -> dict[str, Tensor]:
    chosen, rejected, ref_chosen, ref_rejected = log_probabilities(scores, settings)
    return dpo.rewards(
        settings.tau * (chosen - ref_chosen), settings.tau * (rejected - ref_rejected)
    )


LOSS = Loss(
    "ipo",
    IPOSettings,
    sequences=("chosen", "rejected"),
    terms=_terms,
    reference=True,
    observe=_observe,
)
