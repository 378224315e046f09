"""The length-controlled win rate of AlpacaEval 2: what a judge would say of equally long outputs.

A logistic model of the preferences (arXiv 2404.04475; published as `length_controlled_v1`)::

    P(model is better) = σ(a · tanh(Δlen / sd(Δlen)) + d · difficulty + b)

Δlen is the baseline's characters minus the model's, its standard deviation taken over the model's
pairs. Two more answers of the baseline, made terse and made verbose, are in the fit with a small
weight and without b: they tie a to what length alone does to one and the same model. The LC win
rate is the mean prediction at Δlen = 0.

Legend: N = annotated pairs, G = rows of the gamed baselines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from rayonale import storage
from rayonale.evaluate.alpaca_eval import Annotations

Floats = NDArray[np.float64]

GRID = np.logspace(-4, 4, 10)  # inverse penalties that cross-validation chooses from
FOLDS = 5
GAMED_WEIGHT = 0.2 / 2  # of a gamed baseline's row: there are two of these baselines
NO_PENALTY = 1e6  # inverse penalty that moves the published rates by less than 1e-5 points


@dataclass(frozen=True)
class GamedBaseline:
    """Preferences between the baseline and its own terse and verbose answers.

    Attributes:
        length: [G] Δlen / sd(Δlen), not yet through tanh.
        difficulty: [G] difficulty of the row's instruction.
        preference: [G] probability that the gamed answer is better.
    """

    length: Floats
    difficulty: Floats
    preference: Floats


@dataclass(frozen=True)
class LengthControlled:
    """A fitted model and the win rate that it gives.

    Attributes:
        win_rate: in percent.
        standard_error: of the predictions' mean over instructions, in percent: it does not have
            the fit's own uncertainty.
        length, difficulty, model: the coefficients a, d and b; d is None without difficulties.
        inverse_penalty: C of the L1 penalty: large is a weak one.
        regularised: whether the gamed baselines were in the fit.
    """

    win_rate: float
    standard_error: float
    length: float
    difficulty: float | None
    model: float
    inverse_penalty: float
    regularised: bool


def length_controlled(
    annotations: Annotations,
    difficulty: Floats | None = None,
    gamed: GamedBaseline | None = None,
    inverse_penalty: float | Literal["cv"] = "cv",
) -> LengthControlled:
    """Fit the model and predict at equal lengths.

    Args:
        annotations: N pairs.
        difficulty: [N] of their instructions; None leaves d out of the model, which is what can
            be done for instructions that nobody has measured.
        gamed: rows of the gamed baselines; None leaves them out: a is then free to explain
            quality by length.
        inverse_penalty: C of the L1 penalty; `cv` chooses from `GRID` by the log loss of
            `FOLDS` folds, as published.

    Raises:
        ValueError: shapes that do not fit, fewer pairs than folds, or lengths that always
            differ by the same (nothing to fit a to).
    """
    if gamed is not None and difficulty is None:
        raise ValueError("gamed baselines were given without difficulties: expected both")
    own = _features(annotations, difficulty)
    features, preference, weights = own, annotations.preference, np.ones(len(annotations))
    if gamed is not None:
        extra = np.column_stack(
            [np.tanh(gamed.length), gamed.difficulty, np.zeros(gamed.length.size)]
        )
        features = np.concatenate([extra, own])
        preference = np.concatenate([gamed.preference, preference])
        weights = np.concatenate([np.full(gamed.length.size, GAMED_WEIGHT), weights])
    chosen = (
        choose_penalty(features, preference, weights)
        if inverse_penalty == "cv"
        else float(inverse_penalty)
    )
    fitted = fit(features, preference, weights, chosen)
    predicted = predict(fitted, own)
    spread = predicted.std(ddof=1) if predicted.size > 1 else np.nan
    return LengthControlled(
        win_rate=100 * float(predicted.mean()),
        standard_error=100 * float(spread) / predicted.size**0.5,
        length=float(fitted[0]),
        difficulty=None if difficulty is None else float(fitted[1]),
        model=float(fitted[-1]),
        inverse_penalty=chosen,
        regularised=gamed is not None,
    )


def predict(coefficients: Floats, features: Floats) -> Floats:
    """[N] probability that the model is better, were both outputs equally long."""
    level = features.copy()
    level[:, 0] = 0.0
    predicted: Floats = expit(level @ coefficients)
    return predicted


def fit(features: Floats, preference: Floats, weights: Floats, inverse_penalty: float) -> Floats:
    """Coefficients of an L1-penalised logistic model of probabilities.

    scikit-learn takes classes: each row is given twice, as a win with its preference for weight
    and as a loss with the rest. Its solver's order of coordinates is drawn from a fixed seed.

    Args:
        features: [N, F].
        preference: [N] in 0 … 1.
        weights: [N].
    """
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        C=inverse_penalty, l1_ratio=1, solver="liblinear", fit_intercept=False, random_state=123
    )
    model.fit(
        np.concatenate([features, features]),
        np.repeat([1, 0], preference.size),
        sample_weight=np.concatenate([preference * weights, (1 - preference) * weights]),
    )
    found: Floats = model.coef_[0]
    return found


def choose_penalty(features: Floats, preference: Floats, weights: Floats) -> float:
    """The inverse penalty of `GRID` with the smallest mean log loss on rows held out."""
    from sklearn.model_selection import GroupKFold

    size = preference.size
    if size < FOLDS:
        raise ValueError(f"{size} annotated pairs; expected at least {FOLDS} to cross-validate")
    # The groups are those of the doubled rows: both copies of a row fall into one fold.
    groups = np.tile(np.arange(size), 2)
    losses = np.zeros(GRID.size)
    for train, test in GroupKFold(FOLDS).split(groups, groups=groups):
        kept, held = train[train < size], test[test < size]
        for number, penalty in enumerate(GRID):
            found = fit(features[kept], preference[kept], weights[kept], float(penalty))
            told = np.clip(expit(features[held] @ found), 1e-15, 1 - 1e-15)
            right = preference[held]
            loss = -(right * np.log(told) + (1 - right) * np.log1p(-told))
            losses[number] += float(np.mean(weights[held] * loss)) / FOLDS
    return float(GRID[int(losses.argmin())])


def _features(annotations: Annotations, difficulty: Floats | None) -> Floats:
    """[N, 3] length, difficulty, one (without difficulties [N, 2])."""
    apart = annotations.length_baseline - annotations.length
    spread = float(apart.std(ddof=1)) if apart.size > 1 else 0.0
    if spread == 0 and np.any(apart != 0):
        raise ValueError(
            f"{annotations.model!r}: all {apart.size} outputs are {-apart[0]:.0f} characters "
            "longer than the baseline's; expected differences that vary, to tell length from "
            "quality"
        )
    length = np.tanh(apart / spread) if spread else np.zeros(apart.size)
    if difficulty is None:
        return np.column_stack([length, np.ones(apart.size)])
    if difficulty.shape != apart.shape:
        raise ValueError(f"difficulties of shape {difficulty.shape}; expected {apart.shape}")
    return np.column_stack([length, difficulty, np.ones(apart.size)])


def read_difficulty(uri: str) -> dict[int | str, float]:
    """Difficulty of each instruction, by its index and, where the file has it, its text.

    Args:
        uri: lines of {"index": 0, "instruction_difficulty": -0.1, "instruction": "…"}.
    """
    found: dict[int | str, float] = {}
    for row in _lines(uri, ("index", "instruction_difficulty")):
        found[int(row["index"])] = float(row["instruction_difficulty"])
        if row.get("instruction"):
            found[row["instruction"]] = float(row["instruction_difficulty"])
    return found


def difficulties_of(annotations: Annotations, known: Mapping[int | str, float]) -> Floats:
    """[N] difficulty of each annotated pair, by instruction where known, else by index.

    Raises:
        ValueError: an instruction without difficulty; the message names it.
    """
    by_text = any(isinstance(key, str) for key in known)
    keys: list[Any] = list(annotations.instruction if by_text else annotations.index.tolist())
    if missing := [key for key in keys if key not in known]:
        raise ValueError(
            f"{annotations.model!r}: no difficulty for {len(missing)} of {len(keys)} "
            f"instructions, the first {missing[0]!r}; expected one for each"
        )
    return np.array([known[key] for key in keys], dtype=np.float64)


def read_gamed(uri: str) -> GamedBaseline:
    """Rows of the gamed baselines.

    Args:
        uri: lines of {"std_delta_len":, "instruction_difficulty":, "preference": 0 … 1}.
    """
    names = ("std_delta_len", "instruction_difficulty", "preference")
    rows = _lines(uri, names)
    length, difficulty, preference = (
        np.array([float(row[name]) for row in rows], dtype=np.float64) for name in names
    )
    return GamedBaseline(length, difficulty, preference)


def _lines(uri: str, needed: tuple[str, ...]) -> list[dict[str, Any]]:
    fs, path = storage.filesystem(uri)
    lines = fs.cat_file(path).decode().split("\n")
    rows = [json.loads(line) for line in lines if line.strip()]
    for number, row in enumerate(rows, 1):
        if missing := [name for name in needed if name not in row]:
            raise ValueError(f"{uri}:{number}: no {', '.join(missing)}; found {', '.join(row)}")
    return rows
