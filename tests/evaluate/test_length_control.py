"""The length-controlled win rate: properties of the fit, and the published numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from rayonale.evaluate import length_control
from rayonale.evaluate.alpaca_eval import Annotations, read_annotations, win_rate
from rayonale.evaluate.length_control import (
    NO_PENALTY,
    GamedBaseline,
    difficulties_of,
    length_controlled,
    read_difficulty,
    read_gamed,
)
from rayonale.evaluate.published import ALPACA_EVAL, published_alpaca_eval, published_penalty


def made(size: int = 4_000, a: float = -2.0, b: float = 0.5, seed: int = 0) -> Annotations:
    """A model whose preferences follow the logistic model exactly."""
    rng = np.random.default_rng(seed)
    base, own = rng.integers(200, 2_000, (2, size)).astype(float)
    apart = base - own
    told = expit(a * np.tanh(apart / apart.std(ddof=1)) + b)
    return Annotations("made", np.arange(size), ("",) * size, told, own, base)


def test_it_finds_the_coefficients_that_made_the_preferences() -> None:
    found = length_controlled(made(), inverse_penalty=NO_PENALTY)
    assert found.length == pytest.approx(-2.0, abs=1e-2)
    assert found.model == pytest.approx(0.5, abs=1e-2)
    assert found.win_rate == pytest.approx(100 * expit(0.5), abs=0.2)
    assert found.difficulty is None and not found.regularised


def test_a_judge_that_sees_length_alone_gives_fifty_percent() -> None:
    """Longer outputs win everywhere; controlled for length nothing is left of it."""
    model = made(b=0.0)
    longer = Annotations(
        "longer", model.index, model.instruction,
        expit(-2.0 * np.tanh((model.length_baseline - model.length - 800)
              / (model.length_baseline - model.length).std(ddof=1))),
        model.length + 800, model.length_baseline,
    )  # fmt: skip
    assert win_rate(longer).win_rate > 70
    found = length_controlled(longer, inverse_penalty=NO_PENALTY)
    assert found.win_rate == pytest.approx(50, abs=0.3)


def test_exchanging_model_and_baseline_mirrors_the_rate() -> None:
    model = made(size=500)
    mirrored = Annotations(
        "mirrored", model.index, model.instruction, 1 - model.preference,
        model.length_baseline, model.length,
    )  # fmt: skip
    rates = [length_controlled(one, inverse_penalty=1e4).win_rate for one in (model, mirrored)]
    assert sum(rates) == pytest.approx(100, abs=0.02)


def test_a_strong_penalty_says_nothing() -> None:
    assert length_controlled(made(size=100), inverse_penalty=1e-6).win_rate == 50


def test_gamed_baselines_move_the_length_coefficient_and_not_the_models_own_name() -> None:
    model = made(size=200, a=0.0)
    gamed = GamedBaseline(np.linspace(-3, 3, 1_610), np.zeros(1_610), expit(-3 * np.tanh(
        np.linspace(-3, 3, 1_610))))  # fmt: skip
    zero = np.zeros(200)
    free = length_controlled(model, zero, inverse_penalty=NO_PENALTY)
    tied = length_controlled(model, zero, gamed, NO_PENALTY)
    assert abs(free.length) < 0.01 and tied.length < -1
    assert tied.regularised and tied.model == pytest.approx(0.5, abs=0.2)


def test_equal_lengths_everywhere_leave_the_win_rate() -> None:
    size = np.full(50, 100.0)
    told = np.linspace(0, 1, 50)
    model = Annotations("same", np.arange(50), ("",) * 50, told, size, size)
    assert length_controlled(model, inverse_penalty=NO_PENALTY).win_rate == pytest.approx(50)


def test_what_cannot_be_fitted_is_refused() -> None:
    size = np.full(50, 100.0)
    model = Annotations("apart", np.arange(50), ("",) * 50, np.linspace(0, 1, 50), size + 7, size)
    with pytest.raises(ValueError, match="all 50 outputs are 7 characters longer"):
        length_controlled(model)
    with pytest.raises(ValueError, match="3 annotated pairs; expected at least 5"):
        length_controlled(made(size=3))
    with pytest.raises(ValueError, match=r"difficulties of shape \(3,\); expected \(9,\)"):
        length_controlled(made(size=9), np.zeros(3))
    with pytest.raises(ValueError, match="gamed baselines were given without difficulties"):
        length_controlled(made(size=9), None, GamedBaseline(*np.zeros((3, 2))))


def test_difficulties_are_found_by_text_or_index_and_never_guessed(tmp_path: Path) -> None:
    file = tmp_path / "difficulty.jsonl"
    file.write_text('{"index": 0, "instruction_difficulty": -0.5}\n')
    known = read_difficulty(str(file))
    model = Annotations("m", np.array([0, 1]), ("a", "b"), *np.zeros((3, 2)))
    with pytest.raises(ValueError, match="no difficulty for 1 of 2 instructions, the first 1"):
        difficulties_of(model, known)
    file.write_text('{"index": 7, "instruction_difficulty": 1, "instruction": "a"}\n'
                    '{"index": 8, "instruction_difficulty": 2, "instruction": "b"}\n')  # fmt: skip
    assert difficulties_of(model, read_difficulty(str(file))).tolist() == [1, 2]
    file.write_text('{"index": 0}\n')
    with pytest.raises(ValueError, match=r"difficulty\.jsonl:1: no instruction_difficulty"):
        read_difficulty(str(file))


def test_the_published_rates(shared_data: Path) -> None:
    """Plain within 0.12 points of all six; with the published penalty within 0.02."""
    folder = shared_data / ALPACA_EVAL
    models = read_annotations(str(folder / "annotations_compact_6models.jsonl"))
    known = read_difficulty(str(folder / "instruction_difficulty_805.jsonl"))
    gamed = read_gamed(str(folder / "df_gamed_equivalent_1610.jsonl"))
    missed = []
    for name, told in published_alpaca_eval(shared_data).items():
        difficulty = difficulties_of(models[name], known)
        target = told["length_controlled_winrate"]
        penalty = published_penalty(models[name], difficulty, told["glm_weights"])
        assert penalty in (length_control.GRID[5], length_control.GRID[6])
        plain = length_controlled(models[name], difficulty, gamed, NO_PENALTY)
        assert plain.win_rate == pytest.approx(target, abs=0.12), name
        same = length_controlled(models[name], difficulty, gamed, penalty)
        assert same.win_rate == pytest.approx(target, abs=0.02), name
        without = length_controlled(models[name], difficulty, None, penalty)
        assert abs(without.win_rate - target) > 0.4, name
        if told["lc_standard_error"] is not None:
            assert same.standard_error == pytest.approx(told["lc_standard_error"], abs=5e-3)
        folds = length_controlled(models[name], difficulty, gamed)
        if folds.inverse_penalty == penalty:
            assert folds.win_rate == pytest.approx(target, abs=0.02), name
        else:
            missed.append(name)
    # The gamed rows at hand equal the published ones at a fixed penalty, not fold by fold: for
    # this model (0.15 points) the folds choose another penalty than the publisher's did.
    assert missed == ["gpt4_gamed"]
