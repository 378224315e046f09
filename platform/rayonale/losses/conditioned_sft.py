"""Conditioned SFT (SteerLM): likelihood of each response, good or bad, given its own score.

The goal is part of the prompt (the `goals` stage puts it there, and the column `goal`); the model
learns what a response of each score looks like, and is asked for the best at inference. Dong et
al. 2023 (arXiv 2310.05344); OpenChat's Conditioned-RLFT (arXiv 2309.11235) is the same with
classes of data sources as goals.
"""

from __future__ import annotations

from typing import Literal

from rayonale.losses.sft import nll_mean, nll_sum
from rayonale.losses.spec import Loss, LossSettings, Scores, Term


class ConditionedSFTSettings(LossSettings):
    """Options of `conditioned_sft`.

    Attributes:
        normalise: as in `sft`.
    """

    name: Literal["conditioned_sft"] = "conditioned_sft"
    normalise: Literal["token", "sequence"] = "token"


def _terms(scores: Scores, settings: ConditionedSFTSettings) -> dict[str, Term]:
    logprob, length = scores.logprob["response"], scores.length["response"]
    if settings.normalise == "token":
        return {"nll": Term(nll_sum(logprob), over="response")}
    return {"nll": Term(nll_mean(logprob, length))}


# `goal` enters through the prompt; it is read so that rows without one are refused.
LOSS = Loss(
    "conditioned_sft",
    ConditionedSFTSettings,
    sequences=("response",),
    terms=_terms,
    values=("goal",),
    rows="labelled",
)
