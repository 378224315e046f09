"""The study stage: numbers by hand, verdicts of claims, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from scipy import stats
from tests.evaluate.swept import CELLS, PROMPTS, WINS, outputs

from rayonale import storage
from rayonale.evaluate.claim_measures import Measured, t_interval
from rayonale.evaluate.paper_claims import CLAIMS, ROLES
from rayonale.evaluate.study import StudySettings, run
from rayonale.stages import StageContext, StageResult


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return outputs(tmp_path_factory.mktemp("swept"))


def study(folder: Path, inputs: dict[str, Any], **settings: Any) -> StageResult:
    where = StageContext(
        "study", str(folder / "study"), inputs, None, "f" * 32, "c" * 32, run=None,  # type: ignore[arg-type]
    )  # fmt: skip
    return run(where, StudySettings.model_validate({"cells": CELLS, "baseline": "sft", **settings}))


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Any]) -> StageResult:
    return study(tmp_path_factory.mktemp("study"), inputs)


def claims(result: StageResult) -> dict[str, dict[str, Any]]:
    return {claim["key"]: claim for claim in result.details["claims"]}


def test_win_rates_are_means_over_seeds_and_prompts(result: StageResult) -> None:
    found = {(row["method"], row["size"]): row for row in result.details["curves"]}
    for place, wins in WINS.items():
        row = found[place]
        assert row["value"] == pytest.approx(sum(wins) / 2 / PROMPTS)
        assert row["by_seed"] == pytest.approx([k / PROMPTS for k in wins])
        assert (row["seeds"], row["prompts"], row["prompts_left_out"]) == (2, PROMPTS, 0)
        assert row["low"] <= row["prompts_low"] <= row["value"] <= row["prompts_high"]
    assert found["dpo", 100]["pairs"] == [100, 100]
    assert found["rdpo", 400]["length"]["value"] == 10


def test_methods_are_compared_seed_by_seed_from_scores_alone(result: StageResult) -> None:
    """rdpo wins where its k is larger: 4 prompts of 40 for both seeds, the other 36 are ties."""
    tests = {(row["a"], row["b"], row["size"]): row for row in result.details["tests"]}
    row = tests["rdpo", "dpo", 400]
    assert row["value"] == pytest.approx((4 + 36 / 2) / 40)
    assert row["by_seed"] == pytest.approx([0.55, 0.55])
    assert tests["permuted", "rdpo", 400]["value"] == pytest.approx((40 - 12) / 2 / 40)
    assert len(tests) == 4  # permuted has one size
    assert all(row["p_holm"] >= row["p_value"] for row in tests.values())
    against = {(r["method"], r["size"]): r["value"] for r in result.details["against_reference"]}
    assert against["rdpo", 100] == pytest.approx((40 - 2) / 2 / 40)  # 22 and 26 of 24 and 28
    assert ("dpo", 400) not in against


def test_pairs_needed_by_hand(tmp_path: Path, inputs: dict[str, Any], result: StageResult) -> None:
    # 90 % of dpo's gain of 15 points: 63.5 %; dpo's way from 50 to 65 is 9/10 there
    assert result.details["target"] == pytest.approx(0.635)
    needed = {row["method"]: row for row in result.details["needed"]}
    assert needed["dpo"]["value_low"] == pytest.approx(100 * 4**0.9)
    assert needed["rdpo"]["value_low"] == pytest.approx(100 * 4 ** (3.5 / 15))
    assert needed["rdpo"]["times_fewer"]["value_low"] == pytest.approx(4 ** (10 / 15))
    assert "permuted" not in needed and needed["dpo"]["times_fewer"] is None
    at_60 = study(tmp_path, inputs, target=0.6).details["needed"]
    rdpo = next(row for row in at_60 if row["method"] == "rdpo")
    assert (rdpo["value_low"], rdpo["value_high"]) == (0, 100)  # its smallest size has 60 %


def test_claims_carry_our_number_and_the_papers(result: StageResult) -> None:
    found = claims(result)
    assert list(found) == [claim.key for claim in CLAIMS]
    above = found["rdpo_above_dpo"]
    assert above["value"] == pytest.approx(0.1) and above["unit"] == "points"
    assert above["published"] == "64.5 % against 59.1 % (table 4)"
    assert found["permuted_loses"]["verdict"] == "holds"
    assert found["permuted_loses"]["value"] == pytest.approx(0.35)
    assert found["few_beat_all"]["value"] == pytest.approx(0.475)
    assert found["shorter"] | {"low": 0, "high": 0} == found["shorter"] | {
        "low": 0, "high": 0, "value": -4.0, "verdict": "holds", "unit": "characters",
    }  # fmt: skip
    assert found["slower"]["value"] == pytest.approx(2) and found["slower"]["verdict"] == "holds"
    # tails 2.0 − 1.0 and 2.2 − 1.0: mean 1.1 ± t(1) · 0.1 = ± 1.27
    tails = found["tails"]
    assert tails["value"] == pytest.approx(1.1) and tails["verdict"] == "undecided"
    assert tails["high"] == pytest.approx(1.1 + stats.t.ppf(0.975, 1) * 0.1)
    assert found["reversed_loses"]["verdict"] == "not tested"
    assert found["reversed_loses"]["why"] == "no cells of reversed"
    assert found["rorpo"]["why"] == "no cells of rorpo, orpo"


@pytest.mark.parametrize(
    ("low", "high", "above", "verdict"),
    [
        (0.51, 0.6, True, "holds"),
        (0.4, 0.49, True, "does not hold"),
        (0.4, 0.6, True, "undecided"),
        (0.5, 0.6, True, "undecided"),  # the threshold itself is on no side
        (0.4, 0.49, False, "holds"),
        (0.51, 0.6, False, "does not hold"),
        (0.51, None, True, "holds"),  # no upper bound is known
        (0.4, None, False, "undecided"),
    ],
)
def test_verdicts_by_the_interval(
    low: float, high: float | None, above: bool, verdict: str
) -> None:
    assert Measured("x", None, low, high, 0.5, above).verdict() == verdict


def test_every_claim_names_roles_that_can_be_given() -> None:
    assert {role for claim in CLAIMS for role in claim.roles} <= set(ROLES)
    assert len({claim.key for claim in CLAIMS}) == len(CLAIMS)


def test_roles_let_methods_have_other_names(tmp_path: Path, inputs: dict[str, Any]) -> None:
    found = claims(study(tmp_path, inputs, roles={"general": "rdpo", "detailed": "dpo"}))
    assert found["general_needs_fewer"]["value"] == pytest.approx(4 ** (10 / 15))


def test_rows_and_metrics_have_the_same_numbers(
    tmp_path: Path, inputs: dict[str, Any], result: StageResult
) -> None:
    again = study(tmp_path, inputs)
    assert again.details == result.details  # seeded
    rows = {r["id"]: r for r in storage.read_rows(str(tmp_path / "study" / "rows"))}
    assert rows["rdpo/400"]["win_rate"] == again.metrics["win_rate/rdpo/400"] == 0.75
    assert rows["rdpo/400"]["seeds"] == [1, 2]
    assert again.metrics["claim/rdpo_above_dpo"] == pytest.approx(0.1)
    assert (again.rows_in, again.rows_out) == (len(CELLS), len(WINS))


def test_one_seed_says_that_margins_and_time_are_not_tested(
    tmp_path: Path, inputs: dict[str, Any]
) -> None:
    cells = [cell for cell in CELLS if cell["seed"] == 1]
    found = claims(study(tmp_path, inputs, cells=cells))
    assert found["tails"]["verdict"] == "not tested" and "two seeds" in found["tails"]["why"]
    assert found["rdpo_beats_sft"]["value"] == pytest.approx(28 / 40)
    assert "1 seed," in found["rdpo_beats_sft"]["what"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"cells": [*CELLS, CELLS[0]]}, "comes twice"),
        ({"roles": {"dpo": "ddpo"}}, "no cell has the method 'ddpo'; methods: dpo, permuted, rdpo"),
        ({"roles": {"best": "dpo"}}, "roles: unknown 'best'"),
        ({"pairs": [["dpo", "dpo"]]}, "'dpo' with itself"),
        ({"baseline": "dpo_400_s1"}, "expected the policy before them"),
        ({"target": 0.4}, "greater than 0.5"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told.replace("'", ".")):
        StudySettings.model_validate({"cells": CELLS, "baseline": "sft", **settings})


def test_a_cell_that_was_not_compared_is_refused(tmp_path: Path, inputs: dict[str, Any]) -> None:
    cell = {"policy": "dpo_800_s1", "method": "dpo", "size": 800, "seed": 1}
    with pytest.raises(ValueError, match="dpo_800_s1 not compared with 'sft'"):
        study(tmp_path, inputs, cells=[*CELLS, cell])
    with pytest.raises(ValueError, match="no comparison by 'gpt'; judges: tinyworld_rubric"):
        study(tmp_path, inputs, judge="gpt")


def test_a_size_that_was_not_trained_on_is_refused(tmp_path: Path, inputs: dict[str, Any]) -> None:
    cells = [{**cell, "size": 300} if cell["size"] == 400 else cell for cell in CELLS]
    with pytest.raises(ValueError, match=r"said to be trained on 300 pairs; its stage used 400"):
        study(tmp_path, inputs, cells=cells)


def test_t_interval_by_hand() -> None:
    # 1 and 3: mean 2, deviation √2, error 1, times 12.706 for one degree of freedom
    assert t_interval([1, 3], 0.95) == pytest.approx((2, 12.7062), abs=1e-4)
