"""Rows of one type as rows of another, and goals in prompts, by hand."""

from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from rayonale import storage
from rayonale.data import reshape
from rayonale.data.reshape import ReshapeSettings
from rayonale.enrich import goals
from rayonale.enrich.goals import GoalSettings
from rayonale.records import LABELLED_ROW, PAIR, RANKED_LIST
from rayonale.stages import StageContext, StageOutput


def message(text: str, role: str = "assistant") -> list[dict]:
    return [{"role": role, "content": text}]


ORIGIN = {"split": "train", "source": "s", "line": 1, "format": "f", "annotator": "x"}
ONE = {
    **ORIGIN,
    "id": "ab" * 16,
    "occurrence": 0,
    "prompt": message("Name a bird.", "user"),
    "metadata": '{"k": 1}',
}
PAIRED = {
    **ONE,
    "chosen": message("wren"),
    "rejected": message("oak"),
    "score_chosen": 9.0,
    "score_rejected": 2.5,
    "confidence": 5.0,
}
LIST = {
    **ONE,
    "responses": [message("oak"), message("wren"), message("elm"), message("crow")],
    "scores": [2.0, 9.0, 2.0, 9.0],
}


def run(stage, tmp_path: Path, schema, rows: list[dict], settings) -> tuple[list, list, object]:
    folder, out = str(tmp_path / "in"), tmp_path / "out"
    storage.write_rows(folder, iter(rows), schema)
    inputs = {"rows": StageOutput("rows", folder, "abc")}
    logged = SimpleNamespace(log_metrics=lambda *a, **k: None)
    context = StageContext("it", str(out), inputs, None, "f", "c", logged)  # type: ignore[arg-type]
    result = stage.run(context, settings)
    read = [list(storage.read_rows(str(out / name))) for name in ("rows", "rejects")]
    return read[0], read[1], result


def test_pairs_become_labelled_rows(tmp_path: Path) -> None:
    rows, _, result = run(reshape, tmp_path, PAIR, [PAIRED], ReshapeSettings(to="labelled"))
    assert (result.rows_in, result.rows_out) == (1, 2)
    assert [(r["response"], r["label"], r["score"]) for r in rows] == [
        (message("wren"), True, 9.0),
        (message("oak"), False, 2.5),
    ]
    assert len({r["id"] for r in rows} | {PAIRED["id"]}) == 3
    assert all(len(r["id"]) == 32 for r in rows)
    assert {r["split"] for r in rows} == {"train"}
    assert set(rows[0]) == set(LABELLED_ROW.names)


@pytest.mark.parametrize(("source", "scores"), [("stored", [9.0, 2.5]), ("preference", [1.0, 0.0])])
def test_pairs_become_lists(source: str, scores: list[float], tmp_path: Path) -> None:
    settings = ReshapeSettings(to="ranked_list", scores=source)
    rows, _, _ = run(reshape, tmp_path, PAIR, [PAIRED], settings)
    assert rows[0]["responses"] == [message("wren"), message("oak")]
    assert rows[0]["scores"] == scores
    assert rows[0]["id"] == PAIRED["id"]


def test_a_pair_gives_back_the_list_that_it_was_picked_from(tmp_path: Path) -> None:
    schema = pa.schema([*PAIR, RANKED_LIST.field("responses"), RANKED_LIST.field("scores")])
    listed = {"responses": LIST["responses"], "scores": LIST["scores"]}
    settings = ReshapeSettings(to="ranked_list", scores="listed")
    rows, rejects, _ = run(reshape, tmp_path, schema, [{**PAIRED, **listed}, PAIRED], settings)
    assert [(r["responses"], r["scores"]) for r in rows] == [(LIST["responses"], LIST["scores"])]
    assert [r["reason"] for r in rejects] == ["no_list"]


def test_lists_become_best_against_worst(tmp_path: Path) -> None:
    equal = {**LIST, "scores": [3.0] * 4}
    short = {**LIST, "scores": [3.0]}
    settings = ReshapeSettings(to="pair")
    rows, rejects, result = run(reshape, tmp_path, RANKED_LIST, [LIST, equal, short], settings)
    assert [(r["chosen"], r["rejected"]) for r in rows] == [(message("wren"), message("oak"))]
    assert (rows[0]["score_chosen"], rows[0]["score_rejected"]) == (9.0, 2.0)
    assert [r["reason"] for r in rejects] == ["equal_scores", "no_scores"]
    assert result.rejects == {"filtered": {"equal_scores": 1}, "invalid": {"no_scores": 1}}


def test_a_pair_without_scores_is_no_scored_list(tmp_path: Path) -> None:
    settings = ReshapeSettings(to="ranked_list", scores="stored")
    row = {**PAIRED, "score_rejected": None}
    rows, rejects, _ = run(reshape, tmp_path, PAIR, [row], settings)
    assert (rows, [r["reason"] for r in rejects]) == ([], ["no_scores"])


def test_ways_that_do_not_exist_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no way from pair rows to pair; choices: pair to label"):
        run(reshape, tmp_path, PAIR, [PAIRED], ReshapeSettings(to="pair"))
    for options in ({"to": "ranked_list"}, {"to": "labelled", "scores": "stored"}):
        with pytest.raises(ValueError, match="expected `stored`, `preference` or"):
            ReshapeSettings(**options)


LABELLED = {**ONE, "response": message("wren"), "label": True, "score": 7.0}


@pytest.mark.parametrize(("goal", "told"), [("score", "7"), (9.5, "9.5"), (10, "10")])
def test_the_goal_is_told(goal: object, told: str, tmp_path: Path) -> None:
    settings = GoalSettings(goal=goal, template="tinyworld/goal_system")
    rows, _, result = run(goals, tmp_path, LABELLED_ROW, [LABELLED], settings)
    (row,) = rows
    system = {"role": "system", "content": f"Target overall score: {told} of 10."}
    assert row["prompt"] == [system, *ONE["prompt"]]
    assert (row["goal"], row["id"]) == (float(told), ONE["id"])
    assert result.prompts == ["tinyworld/goal_system"]


def test_where_the_goal_is_told() -> None:
    talk = [*message("Hi.", "user"), *message("Hello."), *message("A bird?", "user")]
    found = goals.with_goal(talk, "Aim at 9.", "user")
    assert [m["content"] for m in found] == ["Hi.", "Hello.", "Aim at 9.\n\nA bird?"]
    found = goals.with_goal([*message("Be kind.", "system"), *talk], "Aim at 9.", "system")
    assert found == [*message("Aim at 9.\n\nBe kind.", "system"), *talk]


def test_rows_without_a_score_of_their_own(tmp_path: Path) -> None:
    rows, rejects, _ = run(
        goals, tmp_path, LABELLED_ROW, [{**LABELLED, "score": None}], GoalSettings(goal="score")
    )
    assert (rows, [r["reason"] for r in rejects]) == ([], ["no_score"])
    with pytest.raises(ValueError, match="'score' needs labelled rows"):
        run(goals, tmp_path / "pairs", PAIR, [PAIRED], GoalSettings(goal="score"))
