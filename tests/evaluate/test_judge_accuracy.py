"""From judgements to tables, by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.enrich.test_curation import SCHEMA, judgement, row

from rayonale import storage
from rayonale.evaluate.judge_accuracy import JudgeAccuracySettings, run
from rayonale.evaluate.judge_verdicts import names_first, names_longer, told_of
from rayonale.report.evidence import Evidence
from rayonale.report.sections import judgements
from rayonale.stages import StageOutput


def both(first: float | None, second: float | None) -> list[Any]:
    return [judgement("x", first, "ab"), judgement("y", second, "ba")]


@pytest.mark.parametrize(
    ("judged", "strategy", "value", "flipped"),
    [
        ([judgement("x", 4.0), judgement("y", 2.0)], "first", 4, None),
        ([judgement("x", None), judgement("y", 2.0)], "first", None, None),
        ([judgement("x", 4.0), judgement("y", 2.0), judgement("z", 2.0)], "vote", 2, None),
        ([judgement("x", 4.0), judgement("y", 2.0)], "vote", 4, None),  # the one that came first
        ([judgement("x", 4.0), judgement("y", 2.0), judgement("z", None)], "mean", 3, None),
        ([judgement("x", 5.0), judgement("y", 2.0)], "best_of_n", 2, None),  # the label is 1
        ([judgement("x", 5.0, expected=4.5)], "expected", 4.5, None),
        (both(1.0, 1.0), "first", 1, False),
        (both(1.0, 2.0), "first", 1.5, True),
        (both(1.0, None), "first", None, None),
        ([judgement("x", 3.0, "a"), judgement("y", 5.0, "b")], "first", 2, None),
        ([judgement("x", 3.0, "a"), judgement("y", 3.0, "b")], "first", 1.5, None),
        ([judgement("x", 3.0, "a"), judgement("y", None, "b")], "first", None, None),
    ],
)
def test_one_verdict_of_an_input(judged: Any, strategy: Any, value: Any, flipped: Any) -> None:
    told = told_of(judged, strategy, 1.0)
    assert (told.value, told.flipped) == (value, flipped)


def test_what_verdicts_go_with() -> None:
    """ba shows the second response first: to name the second is to name the first shown."""
    assert [names_first(j) for j in both(1.0, 1.0)] == [1.0, 0.0]
    assert (
        names_first(judgement("x", None, "ab")) is None and names_first(judgement("x", 3.0)) is None
    )
    texts = [[{"role": "assistant", "content": t}] for t in ("a b c", "a b")]
    pair = row(1, [], 1.0, responses=texts)
    assert (names_longer(pair, 1.0), names_longer(pair, 2.0)) == (1.0, 0.0)
    assert names_longer(row(1, [], 1.0, responses=texts[:1] * 2), 1.0) is None


def output(folder: Path, name: str, rows: list[Any]) -> StageOutput:
    storage.write_rows(f"{folder}/{name}", rows, SCHEMA)
    return StageOutput(name, f"{folder}/{name}", "f")


def measured(folder: Path, outputs: list[StageOutput], **settings: Any) -> Any:
    where: Any = SimpleNamespace(name="m", out=f"{folder}/out", inputs={"judgements": outputs})
    return run(where, JudgeAccuracySettings(resamples=200, **settings))


def test_tables_by_hand(tmp_path: Path) -> None:
    """Three scores of four are read: one is right, one is 1 too high, one 2 too low."""
    told = [(3.0, 3.0), (5.0, 4.0), (2.0, 4.0), (None, 2.0)]
    rows = [
        row(n, [judgement("x", verdict, reason=None if verdict else "no_marker")], label)
        for n, (verdict, label) in enumerate(told)
    ]
    poor = output(tmp_path, "poor", [*rows, row(9, [judgement("x", 1.0)], None)])
    good = output(
        tmp_path, "good", [row(n, [judgement("x", v)], v) for n, (_, v) in enumerate(told)]
    )
    result = measured(tmp_path, [poor, good], differences=[("good", "poor")])
    entry, best = result.details["judges"]
    assert entry["measures"]["accuracy"]["value"] == pytest.approx(1 / 3)
    assert entry["accuracy_all"] == pytest.approx(1 / 4)
    assert entry["measures"]["mean_error"]["value"] == pytest.approx(1.0)
    assert {k: n for k, n in entry["errors"].items() if n} == {"-2": 1, "0": 1, "1": 1}
    assert entry["parse_failure_rate"] == pytest.approx(1 / 5)
    assert entry["reasons"] == {"no_marker": 1}
    assert best["measures"]["pearson"]["value"] == pytest.approx(1)
    assert result.rejects == {"invalid": {"unreadable": 1}, "filtered": {"no_label": 1}}
    (apart, *_) = result.details["differences"]
    assert (apart["measure"], apart["value"]) == ("accuracy", pytest.approx(2 / 3))
    assert apart["inputs"] == 3  # those that both could tell
    manifest = {"details": result.details, "kind": "judge_accuracy"}
    page = judgements.section(
        Evidence("t", [StageOutput("accuracy", "x", "f", "judge_accuracy", manifest)])
    )
    assert page is not None and "good" in page.html and "no_marker" in page.html


def test_comparisons_by_hand(tmp_path: Path) -> None:
    """Right, flipped (half right), wrong: ½ on average; the first shown is named 3 times of 6."""
    rows = [row(1, both(1.0, 1.0), 1.0), row(2, both(1.0, 2.0), 1.0), row(3, both(2.0, 2.0), 1.0)]
    result = measured(tmp_path, [output(tmp_path, "judge", rows)])
    (entry,) = result.details["judges"]
    assert entry["measures"]["tie_aware"]["value"] == pytest.approx(0.5)
    assert entry["flip_rate"]["value"] == pytest.approx(1 / 3)
    assert entry["first_share"]["value"] == pytest.approx((0.5 + 1 + 0.5) / 3)


def test_unknown_judges_and_nothing_to_measure_are_told(tmp_path: Path) -> None:
    one = output(tmp_path, "one", [row(1, [judgement("x", 3.0)], 3.0)])
    with pytest.raises(ValueError, match="no judge 'two'; measured are one/first"):
        measured(tmp_path, [one], differences=[("one", "two")])
    blind = output(tmp_path, "blind", [row(1, [judgement("x", None)], 3.0)])
    with pytest.raises(ValueError, match="nothing to measure"):
        measured(tmp_path, [blind])
