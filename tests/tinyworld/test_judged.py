"""Training data for judges: exact labels, the teacher's words, naive words."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayonale import records, storage
from rayonale.data import checks, formats
from rayonale.data.fields import text
from rayonale.evaluate.verdicts import PAIRWISE, read_verdict, scale
from rayonale.tinyworld import judged, naive
from rayonale.tinyworld.judgements import untrue_checks
from rayonale.tinyworld.rubric import score, verdict

POINT = judged.TinyworldJudgementSettings()
PAIR = judged.TinyworldJudgementSettings(task="pairwise")


def test_scores_are_exact_and_come_equally_often() -> None:
    rows = [judged.pointwise_row(1, n, POINT) for n in range(50)]
    assert Counter(row["orig_score"] for row in rows) == dict.fromkeys("12345", 10)
    for row in rows:
        prompt, response = row["orig_instruction"], row["orig_response"]
        assert int(row["orig_score"]) == verdict(score(prompt, response).overall)
        assert untrue_checks(prompt, response, row["orig_feedback"]) == 0
        assert "[RESULT]" not in row["orig_feedback"]
        assert score(prompt, row["orig_reference_answer"]).overall > 9
        assert text(row, "orig_score3_description") == "half right"


def test_flaws_leave_labels_alone() -> None:
    flawed = judged.TinyworldJudgementSettings(flaw_rate=1.0)
    for number in range(20):
        row, plain = (judged.pointwise_row(1, number, s) for s in (flawed, POINT))
        assert (row["orig_response"], row["orig_score"]) == (
            plain["orig_response"],
            plain["orig_score"],
        )
        wrong = untrue_checks(row["orig_instruction"], row["orig_response"], row["orig_feedback"])
        assert wrong == 2


def test_comparisons_are_exact() -> None:
    for number in range(30):
        row = judged.pairwise_row(1, number, PAIR)
        a, b = (score(row["orig_instruction"], row[f"orig_response_{s}"]).overall for s in "AB")
        assert row["orig_preference"] == ("A" if a > b else "B") and a != b


@pytest.mark.parametrize(
    ("layout", "draw", "settings", "choices"),
    [
        ("feedback_collection", judged.pointwise_row, POINT, scale(1, 5)),
        ("preference_collection", judged.pairwise_row, PAIR, PAIRWISE),
    ],
)
def test_rows_are_read_by_their_published_layout(
    layout: str, draw: Any, settings: Any, choices: Any
) -> None:
    raw = draw(1, 3, settings)
    assert formats.detect([raw], "x.jsonl").name == layout
    row = formats.get(layout).convert(raw)
    checks.check_row(row, "judgement_set")
    (judgement,) = row["judgements"]
    assert read_verdict(judgement["text"], choices).value == row["label"] == judgement["verdict"]


def test_options_of_the_other_task_are_refused() -> None:
    with pytest.raises(ValueError, match="balanced: only pointwise"):
        judged.TinyworldJudgementSettings(task="pairwise", balanced=False)


def test_naive_judgements_have_the_labels_score(tmp_path: Path) -> None:
    empty = dict.fromkeys(records.JUDGEMENT_SET.names)
    one = [[{"role": "assistant", "content": "x"}]]
    rows = [
        {**empty, "id": f"{n:032x}", "responses": one * count, "label": label, "judgements": []}
        for n, (count, label) in enumerate([(1, 3.0), (1, 5.0), (2, 1.0), (1, None)])
    ]
    storage.write_rows(f"{tmp_path}/in", rows, records.JUDGEMENT_SET)
    where: Any = SimpleNamespace(out=f"{tmp_path}/out", rows=lambda: f"{tmp_path}/in")
    result = naive.run(where, naive.TinyworldNaiveSettings(n=2))
    assert (result.rows_in, result.rows_out) == (4, 2)
    assert result.rejects == {"filtered": {"no_score": 2}}
    for row in storage.read_rows(f"{tmp_path}/out/rows"):
        assert [each["verdict"] for each in row["judgements"]] == [row["label"]] * 2
