"""Judges of judgements: ratings and picks, read or not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayonale import prompts
from rayonale.enrich.meta_judgements import (
    MetaJudgeSettings,
    PickTask,
    RateTask,
    read_pick,
    validate,
)
from rayonale.generate.settings import Completion, Sampling

GREEDY = Sampling(temperature=0, max_tokens=32)


def judgement(verdict: float | None, rationale: str, order: str | None = None) -> dict[str, Any]:
    text = f"{rationale} [RESULT] {verdict}"
    return {
        "verdict": verdict,
        "rationale": rationale,
        "text": text,
        "order": order,
        "rating": None,
    }


ROW: dict[str, Any] = {
    "id": "a",
    "prompt": [{"role": "user", "content": "Name two birds."}],
    "responses": [[{"role": "assistant", "content": "robin, oak"}]],
    "label": 3.0,
    "judgements": [
        judgement(4.0, "too kind"),
        judgement(3.0, "an oak"),
        judgement(None, "no verdict"),
        judgement(3.0, "an oak"),  # the same words again
        judgement(3.0, "half right"),
    ],
}


@pytest.mark.parametrize(
    ("text", "pick"),
    [
        ("[2, 1]", (2, 1)),
        ("The best is clear.\n[1,3]", (1, 3)),
        ("[1, 2] or rather [3, 2].", (3, 2)),
        ("", None),
        ("2, 1", None),
        ("[2]", None),
        ("[2, 2]", None),
        ("[1, 4]", None),
        ("[0, 1]", None),
        ("[1, 2, 3]", None),
        ("[1, two]", None),
        ("[-1, 2]", None),
        ("[²,1]", None),
    ],
)
def test_picks(text: str, pick: tuple[int, int] | None) -> None:
    assert read_pick(text, 3) == pick


@given(st.text(alphabet="[],123 x", max_size=20))
def test_any_text_gives_two_different_candidates_or_none(text: str) -> None:
    found = read_pick(text, 3)
    assert found is None or (found[0] != found[1] and {*found} <= {1, 2, 3})


def test_every_readable_judgement_is_rated() -> None:
    task = RateTask(prompts.source("rate_judgement"), "rate_judgement", GREEDY, 0)
    asked = task.requests(ROW)
    assert isinstance(asked, list) and len(asked) == 4
    assert "an oak [RESULT] 3.0" in asked[1].messages[0]["content"]
    texts = ["Poor. [RESULT] 2", "Good. [RESULT] 5", "I like it.", "[RESULT] 9"]
    found = task.collect(ROW, [Completion(text=text) for text in texts])
    assert isinstance(found, dict)
    assert [j["rating"] for j in found["judgements"]] == [2, 5, None, None, None]
    assert found["ratings_unreadable"] == ["no_marker", "not_a_choice"]
    assert all(j["rating"] is None for j in ROW["judgements"])  # the input is left alone


def test_the_best_and_worst_of_the_correct_ones() -> None:
    """Candidates are the different rationales with the label's score: judgements 1 and 4."""
    task = PickTask(prompts.source("pick_rationale"), "pick_rationale", GREEDY, 0)
    asked = task.requests(ROW)
    assert isinstance(asked, list) and len(asked) == 1
    shown = asked[0].messages[0]["content"]
    assert shown.count("an oak") == 1 and "half right" in shown and "too kind" not in shown
    found = task.collect(ROW, [Completion(text="[2, 1]")])
    assert found["picks"] == [  # type: ignore[index]
        {"order": None, "best": 4, "worst": 1, "text": "[2, 1]", "reason": None}
    ]
    unread = task.collect(ROW, [Completion(text="Both.")])["picks"][0]  # type: ignore[index]
    assert (unread["best"], unread["reason"], unread["text"]) == (None, "unreadable", "Both.")
    alone = {**ROW, "judgements": ROW["judgements"][:2]}
    assert task.requests(alone) == []
    assert task.collect(alone, [])["picks"][0]["reason"] == "fewer_than_two"  # type: ignore[index]


def test_settings() -> None:
    assert MetaJudgeSettings(ask="pick").template_name == "pick_rationale"
    with pytest.raises(ValueError, match="candidates"):
        MetaJudgeSettings(ask="rate", candidates=4)
    assert not validate(MetaJudgeSettings())
    assert validate(MetaJudgeSettings(ask="rate", template="tinyworld/pick_rationale"))
