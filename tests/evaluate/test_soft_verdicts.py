"""Verdicts from log-probabilities: worked by hand, at the extremes, and as published."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.evaluate.test_win_rates import TINYWORLD, context, rows_of, sampled
from tests.report.realistic import pair_rows, samples

from rayonale.evaluate.comparisons import judge_both_orders, soften
from rayonale.evaluate.judges import JudgeTask, LlmJudge
from rayonale.evaluate.soft_verdicts import SoftVerdict, soft_preference, verdict_step
from rayonale.evaluate.win_rates import WinRateSettings, run
from rayonale.generate.settings import Completion, Sampling, Step


def test_labels_share_the_probability() -> None:
    top = {"2": math.log(0.6), "1": math.log(0.15), "tie": math.log(0.25)}
    assert soft_preference(top).preference == pytest.approx(1.8)
    assert soft_preference(top, switched=True).preference == pytest.approx(1.2)
    assert soft_preference(top, ("2", "1")).preference == pytest.approx(1.2)


def test_variants_of_a_label_add_up_and_case_tells_labels_apart() -> None:
    top = {"1": math.log(0.2), " 1": math.log(0.1), "2": math.log(0.1), " 2.": math.log(0.2)}
    assert soft_preference(top).preference == pytest.approx(1.5)
    assert soft_preference(top, variants=False).preference == pytest.approx(1 + 1 / 3)
    assert soft_preference({"m": math.log(0.9), "M": math.log(0.1)}, ("m", "M")).preference == (
        pytest.approx(1.1)
    )


def test_a_label_that_is_not_told_is_bounded_by_the_least_that_is() -> None:
    found = soft_preference({"1": math.log(0.9), "a": math.log(0.06), "b": math.log(0.04)})
    assert found == SoftVerdict(pytest.approx(1 + 0.04 / 0.94), bounded=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("top", "reason"),
    [(None, "no_logprobs"), ({}, "no_logprobs"), ({"a": -0.1}, "no_label"),
     ({"1": -math.inf, "2": -math.inf}, "no_label")],
)  # fmt: skip
def test_nothing_is_guessed(top: dict[str, float] | None, reason: str) -> None:
    assert soft_preference(top) == SoftVerdict(None, reason=reason)


def test_extremes_are_numbers() -> None:
    assert soft_preference({"1": 0.0, "2": -1e4}).preference == 1.0
    assert soft_preference({"1": -1e4, "2": 0.0}).preference == 2.0
    assert soft_preference({"1": -math.inf, "2": -3.0}).preference == 2.0
    for wrong in (0.5, math.nan):
        with pytest.raises(ValueError, match="expected numbers of at most 0"):
            soft_preference({"1": wrong, "2": -1.0})


@given(st.floats(-50, 0), st.floats(-50, 0))
def test_exchanging_the_labels_mirrors_the_preference(one: float, two: float) -> None:
    told = soft_preference({"1": one, "2": two}).preference
    turned = soft_preference({"1": two, "2": one}).preference
    assert told is not None and turned is not None
    assert told + turned == pytest.approx(3.0)
    assert (told > 1.5) == (two > one) or told == pytest.approx(1.5)


def steps(*texts: str) -> list[Step]:
    return [Step(text, {text: -0.1}) for text in texts]


def test_the_verdict_token_is_found_after_the_last_marker() -> None:
    found = steps("1", " is", " good", ".", " [", "RESULT", "]", " ", "2", ".")
    assert verdict_step(found) is found[8]
    assert verdict_step(steps("[RESULT] 1"[:8], " 1")) is not None
    assert verdict_step(steps("[RESULT]", " 1", " [RESULT]", "2")).text == "2"  # type: ignore[union-attr]
    for wrong in (["1"], ["[RESULT]"], ["[RESULT]", "both", "1"], ["[RESULT]", "12"], []):
        assert verdict_step(steps(*wrong)) is None


def test_two_orders_are_averaged_and_flips_counted() -> None:
    both = judge_both_orders("[RESULT] 1", "[RESULT] 2")
    sure = soften(both, SoftVerdict(1.1), SoftVerdict(1.7))
    assert (sure.outcome, sure.flipped) == (pytest.approx(0.8), False)
    assert (sure.ab.value, sure.ba.value) == (1.1, 1.7)
    first = soften(both, SoftVerdict(1.1), SoftVerdict(1.2))  # the first one, in both orders
    assert (first.outcome, first.flipped) == (pytest.approx(0.55), True)
    lost = soften(both, SoftVerdict(1.1), SoftVerdict(None, reason="no_label"))
    assert (lost.outcome, lost.reason) == (None, "unreadable_no_label")


def test_the_judge_asks_for_what_it_reads() -> None:
    early: dict[str, Any] = {"kind": "llm", "verdict": "first_token"}
    with pytest.raises(ValidationError, match="which asks for reasons first"):
        WinRateSettings.model_validate({"judges": [early]})
    early["template"] = "judge_first_token"
    with pytest.raises(ValidationError, match="draws one token once"):
        WinRateSettings.model_validate({"judges": [early | {"sampling": {"max_tokens": 9}}]})
    (first,) = WinRateSettings.model_validate({"judges": [early]}).judges
    assert isinstance(first, LlmJudge) and first.drawn.max_tokens == 1
    judge = {"kind": "llm", "verdict": "logprobs", "ties": True}
    with pytest.raises(ValidationError, match="ties: true with verdict: logprobs"):
        LlmJudge.model_validate(judge)
    row = {"id": "x", "ab": "a or b?", "ba": "b or a?"}
    greedy = Sampling(temperature=0, max_tokens=8)
    plain = JudgeTask(greedy, 1, 0).requests(row)
    soft = JudgeTask(greedy, 1, 0, "logprobs")
    asked = soft.requests(row)
    assert isinstance(plain, list) and isinstance(asked, list)
    assert [one.top_logprobs for one in plain] == [0, 0]
    assert [one.top_logprobs for one in asked] == [20, 20]
    told = tuple(steps("[RESULT]", "2"))
    kept = soft.collect(row, [Completion(text="[RESULT]2", steps=told)] * 2)
    assert isinstance(kept, dict)
    assert kept["answers_ab"][0]["top"] == [{"token": "2", "logprob": -0.1}]


def test_a_real_judges_probabilities_agree_with_what_it_wrote(
    tmp_path: Path, engines: Any, tinyworld_model: Path
) -> None:
    prompts = pair_rows(24)
    outputs = [
        sampled(tmp_path, "poor", samples("poor", 0.2, prompts)),
        sampled(tmp_path, "good", samples("good", 0.95, prompts)),
    ]
    judge = {**TINYWORLD, "model": str(tinyworld_model), "verdict": "logprobs"}
    where = context(tmp_path, outputs, engines)
    result = run(where, WinRateSettings.model_validate({"judges": [judge], "max_unreadable": 0.9}))
    judged = rows_of(where)
    assert len(judged) >= 12
    soft = 0
    for row in judged:
        if row["response_a"] == row["response_b"]:
            continue
        for order in ("ab", "ba"):
            written = float(row[f"text_{order}"].rstrip()[-1])
            assert round(row[f"verdict_{order}"]) == written  # greedy: the likelier was written
            soft += 1.0 < row[f"verdict_{order}"] < 2.0
        told = (2 - row["verdict_ab"] + row["verdict_ba"] - 1) / 2
        assert row["outcome"] == pytest.approx(told)
    assert soft > 0
    (entry,) = result.details["win_rates"]
    assert entry["wins"] + entry["ties"] + entry["losses"] == len(judged)


def test_the_stored_preferences_follow_from_the_stored_logprobs(shared_data: Path) -> None:
    lines = (shared_data / "alpaca_eval" / "judge_logprobs_claude-2.1.jsonl").read_text()
    rows = [json.loads(line) for line in lines.split("\n") if line]
    assert len(rows) == 805
    unreadable = 0
    for row in rows:
        switched = bool(row["is_switched_derived"])
        found = soft_preference(row["top_logprobs"], ("M", "m"), switched=switched, variants=False)
        if found.preference is None:
            assert (found.reason, row["preference"]) == ("no_logprobs", 1.5)
            unreadable += 1
            continue
        assert not found.bounded
        assert found.preference == pytest.approx(row["preference"], abs=1e-10), row["index"]
    assert unreadable == 2  # the publisher counts these as ties
