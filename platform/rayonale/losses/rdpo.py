"""Preference losses with the rationale term: RDPO, RORPO, RSimPO (arXiv 2407.14477).

    rdpo     −log σ(βΔ) + γ · (−log π(r | x, y_w ≻ y_l)), eq. 6
    rorpo    ORPO + the same term, no reference
    rsimpo   SimPO + the same term, no reference

or with the released code's form of the second term; see `rationale.py`. RDPO is not the
length-regularised R-DPO (`length_dpo`). `gamma` is the rationale term's γ; SimPO's is
`simpo_gamma` or `gamma_beta_ratio`.
"""

from __future__ import annotations

from typing import Literal

from rayonale.losses import dpo, orpo, simpo
from rayonale.losses.rationale import RationaleTerm, with_rationale


class RDPOSettings(RationaleTerm, dpo.DPOSettings):
    """Options of `rdpo`: those of `dpo` and of the rationale term."""

    name: Literal["rdpo"] = "rdpo"  # type: ignore[assignment]


class RORPOSettings(RationaleTerm, orpo.ORPOSettings):
    """Options of `rorpo`: those of `orpo` and of the rationale term."""

    name: Literal["rorpo"] = "rorpo"  # type: ignore[assignment]


class RSimPOSettings(RationaleTerm, simpo.SimPOSettings):
    """Options of `rsimpo`: those of `simpo` and of the rationale term."""

    name: Literal["rsimpo"] = "rsimpo"  # type: ignore[assignment]


LOSS = with_rationale("rdpo", dpo.LOSS, RDPOSettings)
RORPO = with_rationale("rorpo", orpo.LOSS, RORPOSettings)
RSIMPO = with_rationale("rsimpo", simpo.LOSS, RSimPOSettings)
