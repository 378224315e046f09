"""Endings of real judges → the verdict, or the reason why there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayonale.evaluate.verdict_layouts import Layout, comparisons, read
from rayonale.evaluate.verdicts import REASONS, scale

TEN = scale(1, 10)


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    ("layout", "text", "value", "rationale"),
    [
        ("brackets", "It repeats itself.\n\nRating: [[2]]", 2, "It repeats itself."),
        ("brackets", "Fine. Final rating: [[10]].", 10, "Fine."),
        ("brackets", "Rating: [[ 7 ]]", 7, ""),
        ("brackets", "[[7/10]]", 7, ""),
        ("final_decision", "B is curt. So, the final decision is Response 2.", 2, "B is curt."),
        ("final_decision", "Alike. The final decision is: Tie", 1.5, "Alike."),
        ("pandalm", "2\n\n### Reason: It is concise.\n\n### Reference: x", 2, "It is concise."),
        ("pandalm", "Tie\n### Reason: Both will do.", 1.5, "Both will do."),
        ("result", "Good. [RESULT] 4", 4, "Good."),
    ],
)
def test_endings_that_are_read(layout: Layout, text: str, value: float, rationale: str) -> None:
    choices = comparisons(layout, ties=True) if layout in ("final_decision", "pandalm") else TEN
    found = read(text, choices, layout)
    assert (found.value, found.reason, found.rationale) == (value, None, rationale)


@pytest.mark.parametrize(
    ("layout", "text", "reason"),
    [
        ("brackets", "A good answer, 7 of 10.", "no_marker"),
        ("brackets", "Rating: [[11]]", "not_a_choice"),
        ("brackets", "Rating: [[7.5]]", "not_a_choice"),
        ("brackets", "[[7]] or rather [[8]]", "contradictory"),
        ("brackets", "[[7]] is what I would say if it were longer", "text_after_verdict"),
        ("brackets", 'The format is "[[5]]"', "quoted_marker"),
        ("pandalm", "### Reason: It is concise.", "no_marker"),
        ("pandalm", "Response 2 is better because it is more concise.", "no_marker"),
    ],
)
def test_endings_that_are_refused(layout: Layout, text: str, reason: str) -> None:
    choices = comparisons(layout, ties=True) if layout == "pandalm" else TEN
    found = read(text, choices, layout)
    assert (found.value, found.reason, found.rationale) == (None, reason, text)


def test_letters_where_the_layout_has_them() -> None:
    choices = comparisons("brackets", ties=True)
    assert [read(f"So [[{x}]]", choices, "brackets").value for x in "ABC"] == [1, 2, 1.5]
    assert read("So [[C]]", comparisons("brackets", ties=False), "brackets").value is None
    assert read("So [[1]]", choices, "brackets").reason == "not_a_choice"


def test_real_scores_of_auto_j(shared_data: Path) -> None:
    """Every critique's score, with its own prompt in sight, which holds an example of the form.

    Some are halves, which were not asked for: refused on a scale of whole numbers, never rounded.
    """
    for row in rows(shared_data / "autoj" / "single_gpt4_critiques_300.jsonl"):
        text, prompt, score = row["target_output"], row["usrmsg"], row["pred_score"]
        halves = read(text, scale(1, 10, halves=True), "brackets", prompt=prompt)
        assert halves.value == score, text[-80:]
        whole = read(text, TEN, "brackets", prompt=prompt)
        told = (score, None) if score == int(score) else (None, "not_a_choice")
        assert (whole.value, whole.reason) == told
        assert read(row["usrmsg"], TEN, "brackets", prompt=row["usrmsg"]).value is None


def test_real_feedback_in_prometheus_form(shared_data: Path) -> None:
    """Feedback and score put together again, under the prompt that was given; feedback alone has
    no verdict, and neither has the prompt."""
    read_back = 0
    for name in ("mt_bench_eval_120", "vicuna_eval_120"):
        for row in rows(shared_data / "prometheus" / f"{name}.jsonl"):
            prompt = row["instruction"]
            assert read(prompt, scale(), prompt=prompt).value is None
            for feedback, score in zip(row["gpt4_feedback"], row["gpt4_score"], strict=True):
                if score is None:
                    continue
                text = f"Feedback: {feedback} [RESULT] {score}"
                assert read(text, scale(), prompt=prompt).value == score
                marked = "[RESULT]" in feedback  # one writes it twice
                alone = read(feedback, scale(), prompt=prompt)
                assert alone.value == score if marked else alone.reason == "no_marker"
                read_back += 1
    assert read_back > 600


def test_real_comparisons_of_pandalm(shared_data: Path) -> None:
    choices = comparisons("pandalm", ties=True)
    for row in rows(shared_data / "pandalm" / "pandalm7b_reasons_300.jsonl"):
        told = {0: "Tie", 1: "1", 2: "2"}[row["pandalm_result"]]
        reason, reference = row["pandalm_reason"], row["pandalm_reference"]
        text = f"{told}\n\n### Reason: {reason}\n\n### Reference: {reference}"
        found = read(text, choices, "pandalm")
        assert found.value == {0: 1.5, 1: 1.0, 2: 2.0}[row["pandalm_result"]], text
        assert read(f"{reason}", choices, "pandalm").value is None


def test_a_judge_that_repeats_its_mt_bench_prompt_has_no_verdict(shared_data: Path) -> None:
    for row in rows(shared_data / "mt_bench" / "judge_prompts.jsonl"):
        prompt = f"{row['system_prompt']}\n{row['prompt_template']}"
        for choices in (TEN, comparisons("brackets", ties=True)):
            assert read(prompt, choices, "brackets", prompt=prompt).value is None
        ends = {"[[A]]": "[[B]]", "[[rating]]": "Rating: [[3]]"}[row["output_format"]]
        wanted = comparisons("brackets", ties=True) if "A" in row["output_format"] else TEN
        found = read(f"{prompt}\nThe second is better.\n{ends}", wanted, "brackets", prompt=prompt)
        assert found.value in (2.0, 3.0)


_PIECES = ["[[", "]]", "[[A]]", "[[5]]", "[RESULT] 1", "1\n\n### Reason: ", "5", "Response 2",
           "the final decision is ", "tie", '"', "\n", " ", "é", "\0"]  # fmt: skip


@given(
    st.sampled_from(["result", "brackets", "final_decision", "pandalm"]),
    st.lists(st.sampled_from(_PIECES), max_size=10).map("".join),
    st.booleans(),
)
def test_any_text_gives_a_choice_or_a_reason(layout: Layout, text: str, pairs: bool) -> None:
    choices = comparisons(layout, ties=True) if pairs else TEN
    found = read(text, choices, layout, prompt=text[: len(text) // 2])
    if found.value is None:
        assert found.reason in REASONS and found.rationale == text.strip()
    else:
        assert found.reason is None and found.value in choices.values()


@given(st.text(max_size=60))
def test_a_text_read_as_its_own_quotation_is_never_a_number(text: str) -> None:
    """What a judge only copies is no verdict: the words before the marker are in the prompt too."""
    copied = f"The page says {text.strip() or 'so'} [[5]]"
    assert read(copied, TEN, "brackets", prompt=copied + " and more").value is None or "\n" in text
