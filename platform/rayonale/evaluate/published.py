"""Published results and the files that they follow from, read from a folder of public samples.

The folder holds `alpaca_eval/`, `mt_bench/`, `arena_hard/` … with the publishers' field names. None
of it ships with the project (licences differ); what needs it says so where it is absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from rayonale.evaluate.alpaca_eval import Annotations
from rayonale.evaluate.length_control import GRID, Floats

ALPACA_EVAL = "alpaca_eval"
_COEFFICIENTS = (  # length, difficulty, the model itself
    "np.tanh(std_delta_len)",
    "instruction_difficulty",
    "not_gamed_baseline.astype(float)",
)


def lines(file: Path) -> Iterator[dict[str, Any]]:
    """Rows of a file of JSON lines."""
    with file.open(encoding="utf-8") as handle:
        yield from (json.loads(line) for line in handle if line.strip())


def published_alpaca_eval(folder: Path) -> dict[str, dict[str, Any]]:
    """Model → its row of AlpacaEval 2's leaderboard, the fitted coefficients included."""
    return {row["model"]: row for row in lines(folder / ALPACA_EVAL / "leaderboard_6models.jsonl")}


def published_penalty(
    annotations: Annotations, difficulty: Floats, coefficients: dict[str, float]
) -> float:
    """The inverse penalty that a published length-controlled fit was made with.

    Which C cross-validation chose is not published, but the coefficients tell: at the optimum of
    an L1-penalised fit the gradient of the log loss is ±1/C in each coefficient that is not zero.
    The model's own coefficient b takes no part in the rows of the gamed baselines, so its
    gradient needs the model's annotations alone.

    Args:
        coefficients: `glm_weights` of the leaderboard.

    Returns:
        The member of `GRID` that is nearest to 1 / |gradient| on a log scale.
    """
    a, d, b = (coefficients[name] for name in _COEFFICIENTS)
    apart = annotations.length_baseline - annotations.length
    told = expit(a * np.tanh(apart / apart.std(ddof=1)) + d * difficulty + b)
    gradient = abs(float((told - annotations.preference).sum()))
    return float(GRID[int(np.abs(np.log(GRID) + np.log(gradient)).argmin())])
