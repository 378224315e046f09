"""Direct preference optimisation, with label smoothing (conservative DPO).

`cdpo` is `dpo` with a label smoothing that must be given.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import Field

from rayonale.losses.spec import Loss, LossSettings, Scores, Term

if TYPE_CHECKING:
    from torch import Tensor


def margin(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor) -> Tensor:
    """Δ = (S_π(y_w) − S_ref(y_w)) − (S_π(y_l) − S_ref(y_l)).

    Args:
        chosen, rejected: [P] policy's log-probabilities, sums over response tokens, nats.
        ref_chosen, ref_rejected: [P] the reference's.

    Returns:
        [P], nats.
    """
    return (chosen - ref_chosen) - (rejected - ref_rejected)


def dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """−(1 − ε) log σ(βΔ) − ε log σ(−βΔ), one value a pair.

    Rafailov et al. 2023 (arXiv 2305.18290), eq. 7; ε from Mitchell's note on conservative DPO:
    the probability that a label is flipped. At policy = reference the value is ln 2 for any ε.

    Args:
        chosen, rejected, ref_chosen, ref_rejected: [P] sums over response tokens, nats.
        beta: strength of the tie to the reference, > 0.
        label_smoothing: ε, 0 ≤ ε < 0.5.

    Returns:
        [P].
    """
    from torch.nn.functional import logsigmoid

    logits = beta * margin(chosen, rejected, ref_chosen, ref_rejected)
    # logsigmoid, not log(sigmoid): finite for |βΔ| in the thousands.
    return -(1 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)


class DPOSettings(LossSettings):
    """Options of `dpo`; defaults: β of the paper's experiments, no smoothing."""

    name: Literal["dpo"] = "dpo"
    beta: float = Field(default=0.1, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)


class CDPOSettings(DPOSettings):
    """Options of `cdpo`: `dpo` whose label smoothing must be told."""

    name: Literal["cdpo"] = "cdpo"  # type: ignore[assignment]
    label_smoothing: float = Field(gt=0, lt=0.5)


class HasBeta(Protocol):
    """Settings of a loss with implicit rewards."""

    @property
    def beta(self) -> float: ...


def arguments(scores: Scores) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four log-probabilities that DPO-like losses take, in their order."""
    return (
        scores.logprob["chosen"],
        scores.logprob["rejected"],
        scores.reference["chosen"],
        scores.reference["rejected"],
    )


def terms(scores: Scores, settings: DPOSettings) -> dict[str, Term]:
    """The preference term."""
    values = dpo(*arguments(scores), beta=settings.beta, label_smoothing=settings.label_smoothing)
    return {"preference": Term(values)}


def implicit_rewards(scores: Scores, settings: HasBeta) -> dict[str, Tensor]:
    """β(S_π − S_ref) of both responses, their margin, and whether the chosen one's is higher."""
    chosen, rejected, ref_chosen, ref_rejected = arguments(scores)
    return rewards(settings.beta * (chosen - ref_chosen), settings.beta * (rejected - ref_rejected))


def rewards(reward_chosen: Tensor, reward_rejected: Tensor) -> dict[str, Tensor]:
    """Metrics of the two responses' rewards, [P] each."""
    return {
        "rewards/chosen": reward_chosen,
        "rewards/rejected": reward_rejected,
        "rewards/margin": reward_chosen - reward_rejected,
        # A tie is no win: at policy = reference the accuracy is 0, as in TRL.
        "rewards/accuracy": (reward_chosen > reward_rejected).float(),
    }


LOSS = Loss(
    "dpo",
    DPOSettings,
    sequences=("chosen", "rejected"),
    terms=terms,
    reference=True,
    observe=implicit_rewards,
)
CDPO = replace(LOSS, name="cdpo", settings=CDPOSettings)
