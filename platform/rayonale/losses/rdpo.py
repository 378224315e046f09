"""RDPO: DPO plus the rationale term (arXiv 2407.14477, eq. 6).

−log σ(βΔ) + γ · (−log π(r | x, y_w ≻ y_l)), or the released code's form of the second term. Not
to be confused with the length-regularised R-DPO.
"""

from __future__ import annotations

from typing import Literal

from rayonale.losses import dpo
from rayonale.losses.rationale import RationaleTerm, with_rationale


class RDPOSettings(RationaleTerm, dpo.DPOSettings):
    """Options of `rdpo`: those of `dpo` and of the rationale term."""

    name: Literal["rdpo"] = "rdpo"  # type: ignore[assignment]


LOSS = with_rationale("rdpo", dpo.LOSS, RDPOSettings)
