"""MT-Bench and Arena-Hard as stages, judged by a real server whose texts are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.evaluate.test_win_rates import context, rejects_of, rows_of
from tests.generate.endpoint_server import Answer, Server, options, said

from rayonale import storage
from rayonale.evaluate import (
    answers,
    arena_hard_stage,
    mt_bench_stage,
)
from rayonale.evaluate.arena_hard import read_judgments
from rayonale.evaluate.benchmark_files import file_name, read_answers
from rayonale.stages import StageContext, StageOutput

QUESTIONS = [
    {"question_id": 101, "category": "reasoning", "turns": ["You pass the second?", "The last?"]},
    {"question_id": 81, "category": "writing", "turns": ["A post on Hawaii.", "Now with A's."]},
]
REFERENCES = {"question_id": 101, "model_id": "gpt-4", "choices": [{"turns": ["REF1", "REF2"]}]}


def lines(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(file)


def answer(model: str, question: Any, *turns: str) -> dict[str, Any]:
    return {"question_id": question, "model_id": model, "choices": [{"turns": list(turns)}]}


@pytest.fixture()
def files(tmp_path: Path) -> dict[str, str]:
    """Two questions, right answers to one, answers of two models."""
    given = [answer(m, q, f"{m}-{q}-1", f"{m}-{q}-2") for m in ("good", "bad") for q in (101, 81)]
    return {
        "questions": lines(tmp_path / "question.jsonl", QUESTIONS),
        "references": lines(tmp_path / "reference.jsonl", [REFERENCES]),
        "answers": lines(tmp_path / "answers.jsonl", given),
    }


def judge(server: Server) -> dict[str, Any]:
    return {"kind": "endpoint", "name": "j", "sampling": {"temperature": 0, "max_tokens": 64},
            "endpoint": options(server, output_price=1.0).model_dump()}  # fmt: skip


def reading(where: StageContext, **inputs: Any) -> StageContext:
    where.inputs = inputs
    return where


def spoken(reply: Callable[[str], str]) -> Callable[[int, dict[str, Any]], Answer]:
    return lambda number, body: said(reply(body["messages"][-1]["content"]))


def test_the_second_turn_sees_the_policys_own_first_answer(
    tmp_path: Path,
    files: dict[str, str],
    server: Server,
) -> None:
    server.script = lambda n, body: said(f"to: {body['messages'][-1]['content']}")
    where = reading(context(tmp_path, [], name="answers"))
    result = answers.run(where, answers.AnswerSettings.model_validate(
        {"questions": files["questions"], "policy": "mine", "seed": 3,
         "endpoint": options(server).model_dump()}
    ))  # fmt: skip
    assert (result.rows_in, result.rows_out, result.rejects) == (2, 2, {})
    (row, _) = rows_of(where)
    assert row["answers"] == ["to: You pass the second?", "to: The last?"]
    second = [body for _, body, _ in server.seen if len(body["messages"]) == 3]
    assert len(second) == 2 and len(server.seen) == 4
    (asked,) = [body for body in second if body["messages"][0]["content"] == "You pass the second?"]
    assert [(m["role"], m["content"]) for m in asked["messages"]] == [
        ("user", "You pass the second?"),
        ("assistant", "to: You pass the second?"),
        ("user", "The last?"),
    ]
    # MT-Bench's temperatures: reasoning 0, writing 0.7
    assert {body["temperature"] for _, body, _ in server.seen} == {0.0, 0.7}
    assert asked["temperature"] == 0.0
    written = read_answers(storage.join(where.out, "answers", "mine.jsonl"))
    assert written == {"mine": {"101": tuple(row["answers"]), "81": written["mine"]["81"]}}
    # killed and started again: nothing is asked twice
    answers.run(where, answers.AnswerSettings.model_validate(
        {"questions": files["questions"], "policy": "mine", "seed": 3,
         "endpoint": options(server).model_dump()}
    ))  # fmt: skip
    assert len(server.seen) == 4


def test_an_answer_that_fails_ends_its_conversation_alone(
    tmp_path: Path,
    files: dict[str, str],
    server: Server,
) -> None:
    server.script = lambda n, body: (
        (400, "too long", {}) if "Hawaii" in body["messages"][0]["content"] else said("fine")
    )
    where = reading(context(tmp_path, [], name="answers"))
    result = answers.run(where, answers.AnswerSettings.model_validate(
        {"questions": files["questions"], "endpoint": options(server).model_dump()}
    ))  # fmt: skip
    assert (result.rows_in, result.rows_out) == (2, 1)
    assert result.rejects == {"invalid": {"refused": 1}}
    assert [row["id"] for row in rejects_of(where)] == ["81"]
    assert result.details["policy"] == "judge"  # the served model's name


def graded(text: str) -> str:
    """Good answers 9 in turn 1 and 7 in turn 2, bad ones 4; one text without a grade."""
    if "bad-81-2" in text:
        return "I cannot say."
    if "good" in text:
        return "Fine. [[7]]" if "-2" in text else "Fine. [[9]]"
    return "Poor. [[4]]"


def test_single_grades_by_turn_and_category(
    tmp_path: Path,
    files: dict[str, str],
    server: Server,
) -> None:
    server.script = spoken(graded)
    where = reading(context(tmp_path, [], name="mt"))
    settings = mt_bench_stage.MtBenchSettings.model_validate(
        {"questions": files["questions"], "references": files["references"],
         "answers": [files["answers"]], "judge": judge(server)}
    )  # fmt: skip
    result = mt_bench_stage.run(where, settings)
    good, bad = result.details["mt_bench"]
    assert (good["model"], good["score"], good["turns"]) == ("good", 8.0, {"1": 9.0, "2": 7.0})
    assert good["categories"] == {"reasoning": 8.0, "writing": 8.0}
    assert (bad["score"], bad["graded"], bad["unreadable"]) == (4.0, 3, 1)
    assert result.rejects == {"invalid": {"unreadable_no_marker": 1}}
    assert (result.rows_in, result.rows_out) == (8, 7)
    assert result.metrics["mt_bench/good/turn_2"] == 7.0
    assert result.metrics["mt_bench/bad/writing"] == 4.0
    assert result.details["judges"][0]["cost"] == pytest.approx(8 * 4 / 1e6)
    # the judge sees right answers for reasoning alone, of the turns so far
    texts = [body["messages"][-1]["content"] for _, body, _ in server.seen]
    assert all(("REF1" in text) == ("-101-" in text) for text in texts)
    assert all(("REF2" in text) == ("-101-2" in text) for text in texts)
    # the judgments, written as FastChat does, give the same table
    again = reading(context(tmp_path, [], name="again"))
    reread = mt_bench_stage.run(again, mt_bench_stage.MtBenchSettings.model_validate(
        {"questions": files["questions"], "judgments": storage.join(where.out, "judgments")}
    ))  # fmt: skip
    assert reread.details["mt_bench"] == result.details["mt_bench"]
    assert reread.rejects == {"invalid": {"unreadable": 1}}
    assert {tuple(row) for row in map(dict.keys, rows_of(again))} == {tuple(rows_of(where)[0])}


def test_published_prompts_of_real_questions(
    tmp_path: Path, shared_data: Path, server: Server
) -> None:
    folder = shared_data / "mt_bench"
    server.script = spoken(lambda text: "Rating: [[7]]")
    given = (folder / "model_answer_5models.jsonl").read_text().splitlines()
    (tmp_path / "one.jsonl").write_text("\n".join(one for one in given if '"alpaca-13b"' in one))
    where = reading(context(tmp_path, [], name="mt"))
    result = mt_bench_stage.run(where, mt_bench_stage.MtBenchSettings.model_validate(
        {"questions": str(folder / "question.jsonl"), "limit": 22,
         "references": str(folder / "reference_answer_gpt-4.jsonl"),
         "answers": [str(tmp_path / "one.jsonl")],
         "prompts": str(folder / "judge_prompts.jsonl"), "judge": judge(server)}
    ))  # fmt: skip
    assert result.rows_out == 22 * 2 and result.details["mt_bench"][0]["score"] == 7.0
    written = (Path(where.out) / "judgments/j_single.jsonl").read_text().splitlines()
    used = {json.loads(line)["judge"][1] for line in written}
    # 10 writing, 10 roleplay, 2 reasoning questions
    assert used == {"single-v1", "single-v1-multi-turn", "single-math-v1",
                    "single-math-v1-multi-turn"}  # fmt: skip
    assert all(body["messages"][0]["role"] == "system" for _, body, _ in server.seen)
    assert result.prompts == []  # none of the project's own


def test_names_out_of_data_do_not_lead_out_of_a_folder() -> None:
    assert file_name("org/model-7b.v1", ".jsonl") == "org_model-7b.v1.jsonl"
    assert file_name("../../etc", ".json") == "_.._etc.json"


def test_pairs_in_both_orders(
    tmp_path: Path,
    files: dict[str, str],
    server: Server,
) -> None:
    def reply(text: str) -> str:
        if "-81-" in text:
            return "[[A]]"  # whoever is shown first
        return "[[A]]" if text.index("good-101") < text.index("bad-101") else "[[B]]"

    server.script = spoken(reply)
    where = reading(context(tmp_path, [], name="mt"))
    result = mt_bench_stage.run(where, mt_bench_stage.MtBenchSettings.model_validate(
        {"questions": files["questions"], "references": files["references"], "mode": "pair",
         "answers": [files["answers"]], "baseline": "bad", "judge": judge(server)}
    ))  # fmt: skip
    (pair,) = result.details["mt_bench_pairs"]
    # two turns of one question won, two of the other flipped: (2 + 2 · ½) / 4
    assert (pair["model"], pair["other"], pair["win_rate"]) == ("good", "bad", 75.0)
    assert (pair["wins"], pair["ties"], pair["flipped"]) == (2, 2, 2)
    assert pair["categories"] == {"reasoning": 100.0, "writing": 50.0}
    assert len(server.seen) == 8
    again = reading(context(tmp_path, [], name="again"))
    reread = mt_bench_stage.run(again, mt_bench_stage.MtBenchSettings.model_validate(
        {"questions": files["questions"], "mode": "pair",
         "judgments": storage.join(where.out, "judgments")}
    ))  # fmt: skip
    assert reread.details["mt_bench_pairs"] == [pair]


def test_what_mt_bench_lacks_is_told(
    tmp_path: Path,
    files: dict[str, str],
    server: Server,
) -> None:
    def run(**more: Any) -> None:
        given = {"questions": files["questions"], "answers": [files["answers"]],
                 "judge": judge(server), **more}  # fmt: skip
        settings = mt_bench_stage.MtBenchSettings.model_validate(given)
        mt_bench_stage.run(reading(context(tmp_path, [], name="mt")), settings)

    with pytest.raises(ValueError, match="references: missing; questions of reasoning"):
        run()
    with pytest.raises(ValueError, match="no answers of 'gpt'; answers of: bad, good"):
        run(references=files["references"], mode="pair", baseline="gpt")
    server.script = spoken(lambda text: "no grade")
    with pytest.raises(ValueError, match="judge 'j': 8 of 8 left out.*unreadable_no_marker 8"):
        run(references=files["references"])
    for match, more in (
        ("either a judge or judgments", {"judgments": "x"}),
        ("which compares nothing", {"baseline": "bad"}),
        ("exclude each other", {"prompts": "p", "template": "t"}),
    ):
        with pytest.raises(ValidationError, match=match):
            run(**more)


def arena(tmp_path: Path, size: int) -> dict[str, Any]:
    """Questions, and answers of three models."""
    asked = [{"question_id": f"q{n}", "cluster": "c", "turns": [{"content": f"Ask {n}"}]}
             for n in range(size)]  # fmt: skip
    given = [answer(m, f"q{n}", f"{m}<{n}>") for m in ("base", "good", "poor") for n in range(size)]
    return {"questions": lines(tmp_path / "arena.jsonl", asked), "baseline": "base",
            "answers": [lines(tmp_path / "given.jsonl", given)]}  # fmt: skip


def test_arena_hard_from_games_to_ratings(tmp_path: Path, server: Server) -> None:
    def reply(text: str) -> str:
        number = int(text.split("<", 1)[1].split(">", maxsplit=1)[0])
        rival = "good" if "good<" in text else "poor"
        wins = number % 4 != 0 if rival == "good" else number % 4 == 0
        first = text.index("base<") < text.index(f"{rival}<")
        return "[[B>A]]" if wins == first else "[[A>B]]"

    server.script = spoken(reply)
    where = reading(context(tmp_path, [], name="arena"))
    reference = lines(tmp_path / "arena_ranking.jsonl", [
        {"model": "good", "low": 1100, "high": 1150, "rating": 1120},
        {"model": "base", "low": 1000, "high": 1030}, {"model": "poor", "low": 1010, "high": 1040},
    ])  # fmt: skip
    given = arena(tmp_path, 40) | {"judge": judge(server), "reference": reference}
    result = arena_hard_stage.run(where, arena_hard_stage.ArenaHardSettings.model_validate(given))
    table = {row["model"]: row for row in result.details["arena_hard"]}
    # 30 of 40 questions won in both orders, and 10 of 40
    assert table["good"]["win_rate"] == pytest.approx(75, abs=1e-3)
    assert table["poor"]["win_rate"] == pytest.approx(25, abs=1e-3)
    assert (table["base"]["rating"], table["good"]["battles"]) == (1000, 80)
    assert table["good"]["win_low"] < 75 < table["good"]["win_high"]
    assert [row["model"] for row in result.details["arena_hard"]] == ["good", "base", "poor"]
    # all three apart here; there good > base and good > poor, base and poor not: (1 + 1 + 0) / 3
    assert result.metrics["arena_hard/separability"] == 1.0
    assert result.metrics["arena_hard/agreement"] == pytest.approx(2 / 3)
    assert result.metrics["arena_hard/rank_correlation"] == pytest.approx(0.5)
    assert (result.rows_in, result.rows_out) == (80, 80)
    assert result.details["clusters"] == [("c", 40)]
    # written in the published layout, and the same table from there
    folder = storage.join(where.out, "judgments")
    assert len(read_judgments(folder)) == 80 and len(server.seen) == 160
    again = reading(context(tmp_path, [], name="again"))
    reread = arena_hard_stage.run(again, arena_hard_stage.ArenaHardSettings.model_validate(
        {"baseline": "base", "judgments": folder, "reference": reference}
    ))  # fmt: skip
    assert [r | {"length": None} for r in result.details["arena_hard"]] == reread.details[
        "arena_hard"
    ]


def test_a_question_with_an_unreadable_game_is_left_out(
    tmp_path: Path,
    server: Server,
) -> None:
    server.script = spoken(lambda text: "hm" if "<1>" in text else "[[A=B]]")
    where = reading(context(tmp_path, [], name="arena"))
    settings = arena_hard_stage.ArenaHardSettings.model_validate(
        arena(tmp_path, 4) | {"judge": judge(server)}
    )
    result = arena_hard_stage.run(where, settings)
    assert result.rejects == {"invalid": {"unreadable_no_marker": 2}}
    assert (result.rows_in, result.rows_out) == (8, 6)
    assert {row["win_rate"] for row in result.details["arena_hard"]} == {50.0}
    server.script = spoken(lambda text: "hm")
    model = StageOutput("sft", "m", "abc")
    with pytest.raises(ValueError, match="has an endpoint or a model of its own"):
        arena_hard_stage.run(reading(where, judge_model=model), settings)
    with pytest.raises(ValueError, match="8 of 8 left out"):
        arena_hard_stage.run(reading(context(tmp_path, [], name="other")), settings)
    with pytest.raises(ValueError, match="baseline: no answers of 'gpt'"):
        arena_hard_stage.run(reading(where), settings.model_copy(update={"baseline": "gpt"}))
