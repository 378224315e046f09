"""People's comparisons of rationales: tasks out, votes in, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.enrich.test_curation import SCHEMA, judgement, row

from rayonale import storage
from rayonale.evaluate import rationale_tasks, rationale_votes
from rayonale.evaluate.label_studio import PREFERENCES, labelling_config, read_choices
from rayonale.evaluate.rationale_tasks import RationaleTaskSettings
from rayonale.evaluate.rationale_votes import RationaleVoteSettings
from rayonale.stages import StageOutput

FIRST, SECOND, TIE = "Rationale 1 is better", "Rationale 2 is better", "Tie: both are good"


def judge(folder: Path, name: str, told: list[tuple[float | None, str]]) -> StageOutput:
    rows = [row(n, [judgement(text, verdict)], 3.0) for n, (verdict, text) in enumerate(told)]
    storage.write_rows(f"{folder}/{name}", rows, SCHEMA)
    return StageOutput(name, f"{folder}/{name}", "f")


def tasks(folder: Path, **settings: Any) -> tuple[Any, list[Any], list[Any]]:
    """Twelve inputs with the same score, then a differing, an unreadable and an equal one."""
    more: list[tuple[float | None, str]] = [(3.0, "x"), (3.0, "y"), (3.0, "same")]
    ours = judge(folder, "better", [*((3.0, f"good {n}") for n in range(12)), *more])
    more = [(4.0, "x"), (None, "y"), (3.0, "same")]
    theirs = judge(folder, "worse", [*((3.0, f"poor {n}") for n in range(12)), *more])
    where: Any = SimpleNamespace(name="t", out=f"{folder}/tasks", inputs={"a": ours, "b": theirs})
    result = rationale_tasks.run(where, RationaleTaskSettings(**settings))
    given = json.loads(Path(f"{folder}/tasks/tasks.json").read_text("utf-8"))
    return result, given, list(storage.read_rows(f"{folder}/tasks/rows"))


def test_tasks_are_blind_and_both_sides_come_first(tmp_path: Path) -> None:
    result, given, key = tasks(tmp_path)
    assert (result.rows_in, result.rows_out) == (15, 12)
    assert result.rejects == {
        "filtered": {"scores_differ": 1, "unreadable": 1, "same_rationale": 1}
    }
    assert "better" not in json.dumps(given) and "worse" not in json.dumps(given)
    assert {k["judge_1"] for k in key} == {"better", "worse"}
    for task, told in zip(given, key, strict=True):
        assert task["data"]["task"] == told["id"]
        kind = {"better": "good", "worse": "poor"}
        assert task["data"]["rationale_1"].startswith(kind[told["judge_1"]])
        assert task["data"]["rationale_2"].startswith(kind[told["judge_2"]])
    limited, fewer, _ = tasks(tmp_path, limit=5)
    assert fewer == given[:5] and limited.rejects["limit"] == {"limit": 7}


def test_the_labelling_interface_shows_what_tasks_have(tmp_path: Path) -> None:
    _, given, _ = tasks(tmp_path)
    view = ElementTree.fromstring(labelling_config())
    assert {text.attrib["value"][1:] for text in view.iter("Text")} == {*given[0]["data"]} - {
        "task"
    }
    names = {element.attrib["name"] for element in view.iter() if "name" in element.attrib}
    assert {each.attrib["toName"] for each in view.iter("Choices")} <= names
    assert {choice.attrib["value"] for choice in view.iter("Choice")} > set(PREFERENCES)


def annotation(who: Any, choice: str | None, *reasons: str, **more: Any) -> dict[str, Any]:
    result: list[dict[str, Any]] = [
        {"from_name": "reasons", "type": "choices", "value": {"choices": list(reasons)}},
        {"from_name": "comment", "type": "textarea", "value": {"text": ["Clear."]}},
    ]
    if choice is not None:
        chosen = {"from_name": "preference", "type": "choices", "value": {"choices": [choice]}}
        result.append(chosen)
    return {"completed_by": who, "was_cancelled": False, "result": result, **more}


def test_votes_by_hand(tmp_path: Path) -> None:
    """Four tasks, two people: 5 wins, 1 tie, 2 losses of `better`; a cancelled one is left out."""
    _, given, key = tasks(tmp_path, limit=4)

    def says(task: int, judge_: str | None) -> str:
        if judge_ is None:
            return TIE
        return FIRST if key[task]["judge_1"] == judge_ else SECOND

    wins = [("better", "better"), ("better", "better"), ("better", None), ("worse", "worse")]
    for number, (one, two) in enumerate(wins):
        given[number]["annotations"] = [
            annotation(1, says(number, one), "more specific"),
            annotation({"id": 2, "email": "b@x"}, says(number, two)),
        ]
    given[0]["annotations"] += [
        annotation(3, FIRST, was_cancelled=True),
        annotation(4, None),
        annotation(5, "Both"),
        annotation(1, FIRST),
    ]
    given.append({"data": {"task": "other"}, "annotations": [annotation(1, TIE)]})
    (tmp_path / "export.json").write_text(json.dumps(given), "utf-8")
    read = {"rows": StageOutput("tasks", f"{tmp_path}/tasks/rows", "f")}
    where: Any = SimpleNamespace(
        name="v", out=f"{tmp_path}/votes", inputs=read, rows=lambda: f"{tmp_path}/tasks/rows"
    )
    result = rationale_votes.run(where, RationaleVoteSettings(export=f"{tmp_path}/export.json"))
    told = result.details
    assert (told["of"], told["wins"], told["ties"], told["losses"]) == ("better", 5, 1, 2)
    assert told["win_rate"]["value"] == pytest.approx((1 + 1 + 0.75 + 0) / 4)
    assert result.rejects == {
        "invalid": {"cancelled": 1, "no_preference": 1, "unknown_preference": 1,
                    "second_vote": 1, "unknown_task": 1}
    }  # fmt: skip
    # they agree on 3 of 4; by chance (3·2 + 0·1 + 1·1) / 16 = 7/16
    (pair,) = told["cohen_kappa"]
    assert pair["annotators"] == ["1", "b@x"]
    assert pair["kappa"] == pytest.approx((3 / 4 - 7 / 16) / (1 - 7 / 16))
    chance = (5 / 8) ** 2 + (1 / 8) ** 2 + (2 / 8) ** 2
    assert told["fleiss_kappa"] == pytest.approx((3 / 4 - chance) / (1 - chance))
    assert told["reasons"] == {"more specific": 4}


def test_a_file_that_is_no_export_is_told() -> None:
    with pytest.raises(ValueError, match="entry 1 has no data.task"):
        list(read_choices([{"data": {}}], "x.json"))
