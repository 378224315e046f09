"""AlpacaEval's win rates: hand-worked ones, and those that were published."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayonale.evaluate import alpaca_eval
from rayonale.evaluate.alpaca_eval import from_rows, read_annotations, to_annotations, win_rate
from rayonale.evaluate.published import ALPACA_EVAL, published_alpaca_eval


def annotation(preference: float | None, index: int = 0, **more: Any) -> dict[str, Any]:
    row = {"index": index, "generator_2": "m", "len_1": 10, "len_2": 20, "preference": preference}
    return {**row, **more}


def test_a_win_rate_worked_by_hand() -> None:
    told = [1.0, 1.25, 1.5, 2.0, None]
    rows = [annotation(p, i, len_2=10 * i + 1) for i, p in enumerate(told)]
    found = from_rows(rows)["m"]
    rate = win_rate(found)
    assert found.unannotated == 1
    assert rate.win_rate == pytest.approx(100 * 1.75 / 4)
    # deviations from 0.4375: squares sum to 0.546875
    assert rate.standard_error == pytest.approx(100 * math.sqrt(0.546875 / 3) / 2)
    assert (rate.n_wins, rate.n_wins_base, rate.n_draws, rate.n_total) == (1, 2, 1, 4)
    assert rate.discrete_win_rate == pytest.approx(37.5)
    assert rate.avg_length == 16  # (1 + 11 + 21 + 31) / 4, the published form of a length


def test_zero_is_a_tie_as_in_older_files() -> None:
    assert win_rate(from_rows([annotation(0)])["m"]).win_rate == 50


def test_one_pair_has_no_standard_error() -> None:
    assert math.isnan(win_rate(from_rows([annotation(2.0)])["m"]).standard_error)


@pytest.mark.parametrize("told", [0.5, -1, 2.1, math.nan])
def test_a_preference_outside_its_range_is_refused(told: float) -> None:
    with pytest.raises(ValueError, match=r"annotation 0: preference .*expected 1 … 2"):
        from_rows([annotation(told)])


def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(annotation(1.0)) + "\n" + json.dumps({"preference": 1}) + "\n")
    with pytest.raises(ValueError, match=r"a\.jsonl:2: no generator_2, output_1, output_2"):
        read_annotations(str(file))
    file.write_text(json.dumps(annotation(1.0)) + "\n" + json.dumps(annotation(2.0)) + "\n")
    with pytest.raises(ValueError, match=r"a\.jsonl:2: index 0 of 'm' comes a second time"):
        read_annotations(str(file))
    file.write_text("")
    with pytest.raises(ValueError, match="no annotations"):
        read_annotations(str(file))
    file.write_text(json.dumps(annotation(None)))
    with pytest.raises(ValueError, match="all 1 annotations of 'm' have no preference"):
        read_annotations(str(file))


def row(prompt: str, outcome: float, **more: Any) -> dict[str, Any]:
    return {
        "prompt_id": prompt,
        "policy_a": "rdpo",
        "policy_b": "sft",
        "prompt": [{"role": "user", "content": f"About {prompt}?"}],
        "response_a": "long answer",
        "response_b": "short",
        "sample": 0,
        "judge": "llm",
        "outcome": outcome,
        **more,
    }


def test_a_run_here_is_written_in_the_published_layout_and_read_back(tmp_path: Path) -> None:
    rows = [row("x", 1.0), row("x", 0.5), row("y", 0.0)]  # x was judged twice
    written = to_annotations(rows)
    assert written[0] == {
        "index": 0,
        "dataset": None,
        "instruction": "About x?",
        "generator_1": "sft",
        "output_1": "short",
        "generator_2": "rdpo",
        "output_2": "long answer",
        "annotator": "llm",
        "preference": 1.75,
        "raw_completion": None,
    }
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(written))
    found = read_annotations(str(file))["rdpo"]
    assert found.preference.tolist() == [0.75, 0.0]
    assert found.index.tolist() == [0, 1]
    assert found.length.tolist() == [11, 11] and found.length_baseline.tolist() == [5, 5]


def test_what_the_layout_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="samples 0 and 1; expected one"):
        to_annotations([row("x", 1.0), row("x", 1.0, sample=1)])
    with pytest.raises(ValueError, match="judges llm, other: expected those of one"):
        to_annotations([row("x", 1.0), row("x", 1.0, judge="other")])


def test_the_published_numbers_to_every_digit(shared_data: Path) -> None:
    published = published_alpaca_eval(shared_data)
    found = read_annotations(str(shared_data / ALPACA_EVAL / "annotations_compact_6models.jsonl"))
    assert len(published) == len(found) == 6
    for model, told in published.items():
        rate = win_rate(found[model])
        for name in ("win_rate", "standard_error", "discrete_win_rate"):
            assert getattr(rate, name) == pytest.approx(told[name], rel=0, abs=1e-12), (model, name)
        for name in ("n_wins", "n_wins_base", "n_draws", "n_total", "avg_length"):
            assert getattr(rate, name) == told[name], (model, name)


def test_the_full_layout_gives_the_compact_one(shared_data: Path) -> None:
    folder = shared_data / ALPACA_EVAL
    full = read_annotations(str(folder / "text_alpaca-7b_vs_baseline_400.jsonl"))["alpaca-7b"]
    compact = read_annotations(str(folder / "annotations_compact_6models.jsonl"))["alpaca-7b"]
    at = {index: i for i, index in enumerate(compact.index.tolist())}
    where = [at[index] for index in full.index.tolist()]
    assert len(full) == 400 and isinstance(full, alpaca_eval.Annotations)
    np.testing.assert_array_equal(full.length, compact.length[where])
    np.testing.assert_array_equal(full.length_baseline, compact.length_baseline[where])
    np.testing.assert_allclose(full.preference, compact.preference[where], atol=1e-9)
