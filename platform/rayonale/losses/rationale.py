"""The rationale term: the policy learns to explain the preference; composes with any base loss.

Rationale-DPO (arXiv 2407.14477). The policy is shown the prompt and both responses and writes
the rationale r; S(r) = Σ_t log π(r_t | x, y_w ≻ y_l, r_<t), A(r) = S(r) / |r|.

    paper     + γ · (−S(r))            eq. 6 of the paper
    released  − log σ(γ · S(r))        the authors' code

The sum of a long rationale at the paper's γ = 2 swamps the preference term, and neither text nor
code settles sum or mean for both forms, so `reduction` has no default. The loop logs the size of
both terms.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, create_model, model_validator

from rayonale.losses.sft import nll_mean, nll_sum
from rayonale.losses.spec import Loss, LossSettings, Scores, Term

if TYPE_CHECKING:
    from torch import Tensor


def rationale_nll(logprob: Tensor, length: Tensor, *, gamma: float, mean: bool) -> Tensor:
    """γ · (−S(r)), or γ · (−A(r)) with `mean`: the paper's form, one value a pair.

    Args:
        logprob: [P] S(r), nats.
        length: [P] |r|, at least 1.
        gamma: weight of the term.

    Returns:
        [P].
    """
    return gamma * (nll_mean(logprob, length) if mean else nll_sum(logprob))


def rationale_logistic(logprob: Tensor, length: Tensor, *, gamma: float, mean: bool) -> Tensor:
    """−log σ(γ · S(r)), or −log σ(γ · A(r)) with `mean`: the released code's form.

    Args and returns as `rationale_nll`. At S(r) = 0 the value is ln 2, its minimum.
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid(gamma * (logprob / length if mean else logprob))


class RationaleTerm(LossSettings):
    """Options of the rationale term, mixed into the settings of a loss that has it.

    Attributes:
        gamma: γ; the paper reports 2.0 for RDPO and 10.0 for RORPO, the released config 0.1.
        form: `paper` or `released`.
        reduction: `sum` takes S(r), `mean` A(r), `token` divides −S(r) by the rationale tokens
            of the global batch (paper's form only). No default: see the module's text.
    """

    gamma: float = Field(gt=0)
    form: Literal["paper", "released"]
    reduction: Literal["sum", "mean", "token"]

    @model_validator(mode="after")
    def _reduction_fits_form(self) -> RationaleTerm:
        if self.form == "released" and self.reduction == "token":
            raise ValueError(
                "reduction 'token' has no meaning in the released form, whose −log σ is taken "
                "row by row; choices: sum, mean"
            )
        return self


def rationale_term(scores: Scores, settings: RationaleTerm) -> Term:
    """The term that the settings describe."""
    logprob, length = scores.logprob["rationale"], scores.length["rationale"]
    mean = settings.reduction == "mean"
    if settings.form == "released":
        return Term(rationale_logistic(logprob, length, gamma=settings.gamma, mean=mean))
    values = rationale_nll(logprob, length, gamma=settings.gamma, mean=mean)
    return Term(values, over="rationale") if settings.reduction == "token" else Term(values)


def with_rationale(name: str, base: Loss, settings: type[RationaleTerm]) -> Loss:
    """`base` plus the rationale term.

    Args:
        settings: the base's settings class with `RationaleTerm` mixed in.
    """

    def terms(scores: Scores, chosen_settings: Any) -> dict[str, Term]:
        return {
            **base.terms(scores, chosen_settings),
            "rationale": rationale_term(scores, chosen_settings),
        }

    return replace(
        base,
        name=name,
        settings=settings,
        sequences=(*base.sequences, "rationale"),
        terms=terms,
    )


@lru_cache(maxsize=64)
def on_top_of(base: Loss) -> Loss:
    """`<base>+rationale`: any loss of preference pairs with the rationale term.

    Raises:
        ValueError: the base reads no pairs, has the term already, or an option of its name.
    """
    name = f"{base.name}+rationale"
    if base.rows != "pair" or "rejected" not in base.sequences or "rationale" in base.sequences:
        raise ValueError(
            f"{name!r}: the rationale term goes on top of a loss of preference pairs without it, "
            f"{base.name!r} reads {', '.join(base.sequences)}"
        )
    if clash := {"gamma", "form", "reduction"} & set(base.settings.model_fields):
        raise ValueError(
            f"{name!r}: {base.name!r} and the rationale term both have an option "
            f"{', '.join(sorted(clash))}"
        )
    field: Any = (Literal[name], name)  # type: ignore[valid-type]
    title = f"{base.settings.__name__}WithRationale"
    settings: Any = create_model(title, __base__=(RationaleTerm, base.settings), name=field)
    return with_rationale(name, base, settings)


class RationaleOnlySettings(RationaleTerm):
    """Options of `rationale_only`: the preference term is off."""

    name: Literal["rationale_only"] = "rationale_only"


def _terms(scores: Scores, settings: RationaleOnlySettings) -> dict[str, Term]:
    return {"rationale": rationale_term(scores, settings)}


LOSS = Loss("rationale_only", RationaleOnlySettings, sequences=("rationale",), terms=_terms)
