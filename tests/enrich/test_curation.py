"""The curation rules, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayonale import records, storage
from rayonale.enrich import curation, judgements
from rayonale.enrich.curated import CurateSettings, pairs_of, run
from rayonale.enrich.curation import NoPairs
from rayonale.stages import StageContext, StageOutput


def judged(*verdicts: float | None, ratings: Any = None) -> list[dict[str, Any]]:
    found = ratings or [None] * len(verdicts)
    return [{"verdict": v, "rating": r} for v, r in zip(verdicts, found, strict=True)]


def test_correct_answer() -> None:
    """Label 3: chosen are 0 and 4; one is 1 away, one is 2 away, one cannot be read."""
    five = judged(3, 4, 1, None, 3)
    assert curation.correct_answer(five, 3, 1) == [(0, 1), (0, 2), (4, 1), (4, 2)]
    assert curation.correct_answer(five, 3, 2) == [(0, 2), (4, 2)]


@pytest.mark.parametrize(
    ("verdicts", "label", "reason"),
    [
        ((3, 4), None, "no_label"),
        ((4, 4), 3, "none_correct"),
        ((3, 3), 3, "none_wrong"),
        ((3, 4), 3, "none_wrong"),  # 1 away, and the margin is 2
        ((None, None), 3, "none_correct"),
        ((), 3, "none_correct"),
    ],
)
def test_correct_answer_without_pairs(verdicts: Any, label: Any, reason: str) -> None:
    with pytest.raises(NoPairs, match=reason):
        curation.correct_answer(judged(*verdicts), label, 2)
    assert reason in curation.REASONS


def test_majority() -> None:
    """Two say 4: they are chosen, whatever the label."""
    assert curation.majority(judged(4, 2, 4, 5), 2) == [(0, 1), (2, 1)]
    with pytest.raises(NoPairs, match="no_mode"):
        curation.majority(judged(4, 2), 1)
    with pytest.raises(NoPairs, match="no_mode"):
        curation.majority(judged(None), 1)


def test_meta_judge() -> None:
    rated = judged(1, 2, 3, None, ratings=[5, 3, None, 1])
    assert curation.meta_judge(rated, 1) == [(0, 1)]  # the third has no rating, the last no verdict
    with pytest.raises(NoPairs, match="equal_ratings"):
        curation.meta_judge(rated, 3)
    with pytest.raises(NoPairs, match="none_rated"):
        curation.meta_judge(judged(1, 2), 1)


def test_rationale_judge_and_reversal() -> None:
    assert curation.rationale_judge(judged(3, 3), 1, 0) == [(1, 0)]
    for best, worst in ((None, None), (1, 1)):
        with pytest.raises(NoPairs, match="no_pick"):
            curation.rationale_judge(judged(3, 3), best, worst)
    # the naive one is chosen: indices are of naive, then of ordinary judgements
    assert curation.preference_reversal(judged(3, 4), judged(2, 3), 3) == [(1, 0)]
    with pytest.raises(NoPairs, match="none_naive"):
        curation.preference_reversal(judged(3), judged(2), 3)


def test_a_cap_draws_the_same_pairs_in_any_order() -> None:
    pairs = [(i, j) for i in range(4) for j in range(5, 9)]
    kept = curation.capped(pairs, 5, 0, "a")
    assert len(kept) == 5 and kept == curation.capped(pairs[::-1], 5, 0, "a")
    assert kept != curation.capped(pairs, 5, 1, "a")
    assert curation.capped(pairs, None, 0, "a") == pairs


@given(
    st.lists(st.one_of(st.none(), st.integers(1, 5)), max_size=10),
    st.integers(1, 5),
    st.sampled_from([1.0, 2.0, 3.0]),
)
def test_what_pairs_promise(verdicts: list[int | None], label: int, margin: float) -> None:
    each = judged(*verdicts)
    try:
        pairs = curation.correct_answer(each, label, margin)
    except NoPairs as why:
        assert str(why) in curation.REASONS
        return
    assert len(set(pairs)) == len(pairs)
    for i, j in pairs:
        assert verdicts[i] == label
        assert verdicts[j] is not None and abs(verdicts[j] - label) >= margin


def judgement(text: str, verdict: float | None, order: str | None = None, **more: Any) -> Any:
    rest = dict.fromkeys(("expected", "reason", "seed", "prompt_fingerprint", "rating"))
    return {**rest, "text": text, "rationale": text, "verdict": verdict, "order": order,
            "status": "ok", "tokens": 1, "finish_reason": "stop", **more}  # fmt: skip


def row(number: int, judgements: list[Any], label: float | None, **more: Any) -> dict[str, Any]:
    orders = dict.fromkeys(each["order"] for each in judgements)
    return {
        **dict.fromkeys(records.JUDGEMENT_SET.names),
        "id": f"{number:032x}",
        "split": "train",
        "occurrence": 0,
        "prompt": [{"role": "user", "content": "p"}],
        "responses": [[{"role": "assistant", "content": "r"}]],
        "label": label,
        "judgements": judgements,
        "judge_prompts": [{"order": order, "text": f"Judge {order}"} for order in orders],
        "metadata": "{}",
        **more,
    }


def test_pairs_answer_the_prompt_of_their_order() -> None:
    """Comparisons: any other verdict is wrong, whatever the margin; each order has its prompt."""
    both = [judgement("a", 1.0, "ab"), judgement("b", 2.0, "ab"), judgement("c", 2.0, "ba"),
            judgement("d", 1.0, "ba")]  # fmt: skip
    found = pairs_of(row(1, both, 1.0), CurateSettings(margin=2))
    told = [
        (p["prompt"][0]["content"], p["chosen"][0]["content"], p["rejected"][0]["content"])
        for p in found
    ]
    assert told == [("Judge ab", "a", "b"), ("Judge ba", "d", "c")]
    assert [json.loads(p["metadata"])["order"] for p in found] == ["ab", "ba"]
    assert len({p["id"] for p in found}) == 2


def test_equal_texts_make_one_pair() -> None:
    three = [judgement("a", 3.0), judgement("a", 3.0), judgement("b", 1.0)]
    assert len(pairs_of(row(1, three, 3.0), CurateSettings(margin=2))) == 1


def test_scores_of_single_responses_have_no_label() -> None:
    apart = [judgement("a", 1.0, "a"), judgement("b", 2.0, "a")]
    with pytest.raises(NoPairs, match="no_label"):
        pairs_of(row(1, apart, 1.0), CurateSettings())


SCHEMA = storage.pa.schema([*records.JUDGEMENT_SET, judgements.ADDS.field("judge_prompts")])


def context(folder: Path, rows: list[Any], **inputs: Any) -> StageContext:
    storage.write_rows(f"{folder}/in", rows, SCHEMA)
    read = {"rows": [StageOutput("judged", f"{folder}/in", "f")], **inputs}
    where = SimpleNamespace(name="curated", out=f"{folder}/out", inputs=read)
    return where  # type: ignore[return-value]


def test_the_stage_keeps_account_of_every_input(tmp_path: Path) -> None:
    rows = [
        row(1, [judgement("a", 3.0), judgement("b", 1.0), judgement("c", 5.0)], 3.0),
        row(2, [judgement("a", 3.0), judgement("b", 3.0)], 3.0),
        row(3, [judgement("a", 4.0), judgement("b", None)], 3.0),
        row(4, [judgement("a", 4.0)], None),
    ]
    result = run(context(tmp_path, rows), CurateSettings(margin=2))
    assert (result.rows_in, result.rows_out) == (4, 2)
    assert result.rejects == {"filtered": {"none_wrong": 1, "none_correct": 1, "no_label": 1}}
    pairs = list(storage.read_rows(f"{tmp_path}/out/rows"))
    assert [(p["score_chosen"], p["score_rejected"]) for p in pairs] == [(3, 1), (3, 5)]
    rejects = list(storage.read_rows(f"{tmp_path}/out/rejects"))
    assert [r["id"] for r in rejects] == [f"{n:032x}" for n in (2, 3, 4)]
    assert result.details["curation"]["gaps"] == {"2": 2}
    with pytest.raises(ValueError, match="makes no pair of 3 inputs"):
        run(context(tmp_path, rows[1:]), CurateSettings(margin=2))


def test_roles_and_options_that_a_rule_ignores_are_refused(tmp_path: Path) -> None:
    one = [row(1, [judgement("a", 3.0), judgement("b", 1.0)], 3.0)]
    naive = StageOutput("naive", f"{tmp_path}/in", "f")
    with pytest.raises(ValueError, match="would ignore it"):
        run(context(tmp_path, one, naive=naive), CurateSettings())
    with pytest.raises(ValueError, match="needs naive judgements"):
        run(context(tmp_path, one), CurateSettings(rule="preference_reversal"))
    with pytest.raises(ValueError, match="reads the column picks"):
        run(context(tmp_path, one), CurateSettings(rule="rationale_judge"))
    with pytest.raises(ValueError, match="compares no scores"):
        CurateSettings(rule="rationale_judge", margin=2)


def test_reversal_takes_the_naive_text(tmp_path: Path) -> None:
    ordinary = [row(1, [judgement("Kind 5. [RESULT] 3", 3.0)], 3.0)]
    storage.write_rows(f"{tmp_path}/naive", [row(1, [judgement("So nice!", 3.0)], 3.0)], SCHEMA)
    naive = StageOutput("naive", f"{tmp_path}/naive", "f")
    run(context(tmp_path, ordinary, naive=naive), CurateSettings(rule="preference_reversal"))
    (pair,) = storage.read_rows(f"{tmp_path}/out/rows")
    assert pair["chosen"][0]["content"] == "So nice!"
    assert pair["rejected"][0]["content"] == "Kind 5. [RESULT] 3"
    assert pair["prompt"][0]["content"] == "Judge None"
