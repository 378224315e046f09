"""The stage: from a file or from judges run here to the leaderboard's columns."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.evaluate.test_win_rates import RUBRIC, context, rows_of, sampled
from tests.report.realistic import pair_rows, samples

from rayonale import storage
from rayonale.evaluate import win_rates
from rayonale.evaluate.alpaca_eval import read_annotations
from rayonale.evaluate.leaderboard import AlpacaEvalSettings, run
from rayonale.evaluate.published import ALPACA_EVAL, published_alpaca_eval
from rayonale.stages import StageContext, StageOutput


def reading(where: StageContext, output: StageOutput | None) -> StageContext:
    inputs: dict[str, Any] = {"rows": output} if output else {}
    return dataclasses.replace(where, inputs=inputs)


@pytest.fixture()
def compared(tmp_path: Path) -> StageOutput:
    """40 prompts compared by the rubric: good against poor."""
    prompts = pair_rows(40)
    outputs = [sampled(tmp_path, "poor", samples("poor", 0.2, prompts)),
               sampled(tmp_path, "good", samples("good", 0.95, prompts))]  # fmt: skip
    where = context(tmp_path, outputs)
    settings = win_rates.WinRateSettings.model_validate({"judges": [RUBRIC]})
    win_rates.run(where, settings)
    return StageOutput("compared", where.out, "f" * 32, "win_rates")


def test_a_run_here(tmp_path: Path, compared: StageOutput) -> None:
    where = reading(context(tmp_path, [], name="board"), compared)
    result = run(where, AlpacaEvalSettings(penalty="none"))
    (row,) = rows_of(where)
    judged = list(storage.read_rows(compared.rows))
    assert row["id"] == "good_vs_poor" and row["n_total"] == 40
    assert row["win_rate"] == pytest.approx(100 * sum(r["outcome"] for r in judged) / 40)
    assert result.metrics["alpaca_eval/good_vs_poor/win_rate"] == row["win_rate"]
    assert 0 < row["lc_win_rate"] < 100 and row["lc_difficulty"] is None
    written = storage.join(where.out, "annotations", "good_vs_poor.json")
    again = read_annotations(written)["good"]
    assert 100 * again.preference.mean() == pytest.approx(row["win_rate"])


def test_the_published_files(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / ALPACA_EVAL
    where = reading(context(tmp_path, [], name="board"), None)
    result = run(where, AlpacaEvalSettings(
        annotations=str(folder / "annotations_compact_6models.jsonl"),
        difficulty=str(folder / "instruction_difficulty_805.jsonl"),
        gamed=str(folder / "df_gamed_equivalent_1610.jsonl"), penalty="none",
    ))  # fmt: skip
    for model, told in published_alpaca_eval(shared_data).items():
        at = f"alpaca_eval/{model}"
        assert result.metrics[f"{at}/win_rate"] == pytest.approx(told["win_rate"], abs=1e-12)
        lc = told["length_controlled_winrate"]
        assert result.metrics[f"{at}/lc_win_rate"] == pytest.approx(lc, abs=0.12)
    assert (result.rows_in, result.rows_out) == (4830, 6)


def test_what_does_not_fit_is_refused(tmp_path: Path, compared: StageOutput) -> None:
    def refused(match: str, **given: Any) -> None:
        with pytest.raises(ValidationError, match=match):
            AlpacaEvalSettings(**given)

    refused("gamed without difficulty", gamed="g")
    refused("a file holds one judge's", annotations="a", judge="j")
    refused("ignores difficulty", length_controlled=False, difficulty="d")
    refused("expected a positive number", penalty=0.0)
    where = reading(context(tmp_path, [], name="board"), compared)
    with pytest.raises(ValueError, match="expected either `annotations` or rows"):
        run(where, AlpacaEvalSettings(annotations="a"))
    with pytest.raises(ValueError, match="judge 'gpt': the rows are of tinyworld_rubric"):
        run(where, AlpacaEvalSettings(judge="gpt"))
