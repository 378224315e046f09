"""The judge: what it is shown, what is kept of its words, by an engine and by an endpoint."""

from __future__ import annotations

import math
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.data.conftest import run_ingest
from tests.generate.endpoint_server import Answer, Server, options, said

from rayonale import prompts, records, storage
from rayonale.enrich.judge_task import read_structured
from rayonale.enrich.judgement_examples import JudgementExampleSettings, examples_of
from rayonale.enrich.judgement_prompts import read_rubric, wording
from rayonale.enrich.judgements import JudgeSettings, run, select, task_of, validate
from rayonale.evaluate import judge_accuracy
from rayonale.evaluate.soft_verdicts import expected_verdict
from rayonale.evaluate.verdicts import PAIRWISE, scale
from rayonale.generate.endpoint import BudgetSpent
from rayonale.generate.settings import Completion, Sampling, Step
from rayonale.stages import StageContext, StageOutput
from rayonale.tinyworld import judged

DRAWN = Sampling(temperature=1.0, top_p=1.0, max_tokens=96)


def row(*responses: str, label: float | None = 1.0, number: int = 1, **more: Any) -> dict[str, Any]:
    return {
        **dict.fromkeys(records.JUDGEMENT_SET.names),
        "id": f"{number:032x}",
        "split": "test",
        "prompt": [{"role": "user", "content": "Name two birds."}],
        "responses": [[{"role": "assistant", "content": text}] for text in responses],
        "label": label,
        "judgements": [],
        "metadata": "{}",
        **more,
    }


def context(folder: Path, rows: str, engines: Any = None, **inputs: Any) -> StageContext:
    read = {"rows": StageOutput("inputs", rows, "f"), **inputs}
    return StageContext("judged", str(folder), read, engines, "f" * 32, "c" * 32, run=None)  # type: ignore[arg-type]


def test_literal_prompts() -> None:
    words = wording("judge_rubric", "judge_rubric_pairwise")
    shown = words.render(
        row("robin, oak", rubric="[Birds?]\nScore 1: None.", reference="wren"), None
    )
    assert shown == (
        "Grade a response to the conversation below by the rubric that follows it. First write "
        "feedback on what the response does well and where it falls short, by the rubric alone. "
        "Then end with one line that holds the marker [RESULT] followed by a whole number from 1 "
        "to 5.\n\n[Conversation]\nName two birds.\n\n[Response]\nrobin, oak\n\n"
        "[Reference answer, which deserves a 5]\nwren\n\n[Rubric]\n[Birds?]\nScore 1: None.\n\n"
        "Being long or sounding confident is not a merit. Write the feedback, then the line with "
        "[RESULT] and the score."
    )
    plain = words.render(row("robin, oak"), None)
    assert "rubric" not in plain.lower() and "Reference" not in plain
    pair = words.render(row("robin, oak", "wren"), "ba")
    assert pair.index("[Response 1]\nwren") < pair.index("[Response 2]\nrobin, oak")


def test_several_turns_are_shown_with_their_speakers() -> None:
    turns = [
        {"role": "user", "content": "Name a bird."},
        {"role": "assistant", "content": "wren"},
        {"role": "user", "content": "Another."},
    ]
    shown = wording("judge_rubric", "judge_rubric_pairwise").render(row("owl", prompt=turns), None)
    assert "User: Name a bird.\nAssistant: wren\nUser: Another." in shown


def test_a_rubric_of_a_file_takes_the_place_of_the_column(tmp_path: Path) -> None:
    file = tmp_path / "rubric.yaml"
    file.write_text("criteria: Birds?\nscores: {2: Two., 1: One.}\n")
    assert read_rubric(str(file)) == "[Birds?]\nScore 1: One.\nScore 2: Two."
    words = wording("judge_rubric", "judge_rubric_pairwise", rubric=str(file))
    shown = words.render(row("a", rubric="[Own]"), None)
    assert "[Birds?]" in shown and "[Own]" not in shown
    (tmp_path / "plain.txt").write_text("Be strict.\n")
    assert read_rubric(str(tmp_path / "plain.txt")) == "Be strict."
    for name, text in (("rubric.md", "x"), ("rubric.json", '{"criteria": "x"}')):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match="expected"):
            read_rubric(str(tmp_path / name))


def test_every_judgement_keeps_what_it_came_from() -> None:
    """Both orders, two draws each; verdicts are of the row's responses, whatever came first."""
    settings = JudgeSettings(n=2, sampling=DRAWN)
    judge, pair = task_of(settings), row("a", "b")
    asked = judge.requests(pair)
    assert isinstance(asked, list)
    assert len(asked) == 4 and len({request.seed for request in asked}) == 4
    texts = ["One. [RESULT] 1", "Two. [RESULT] 2", "One. [RESULT] 1", "I cannot say."]
    found = judge.collect(pair, [Completion(text=t, finish_reason="stop", tokens=5) for t in texts])
    assert isinstance(found, dict)
    told = [(j["order"], j["verdict"], j["status"], j["reason"]) for j in found["judgements"]]
    assert told == [
        ("ab", 1, "ok", None),
        ("ab", 2, "ok", None),
        ("ba", 2, "ok", None),  # the one shown first is the second response
        ("ba", None, "unreadable", "no_marker"),
    ]
    assert [j["text"] for j in found["judgements"]] == texts
    assert found["judgements"][0]["rationale"] == "One."
    assert [j["seed"] for j in found["judgements"]] == [request.seed for request in asked]
    prints = [j["prompt_fingerprint"] for j in found["judgements"]]
    assert prints[0] == prints[1] != prints[2] == prints[3]
    assert [p["order"] for p in found["judge_prompts"]] == ["ab", "ba"]
    assert found["judge_prompts"][1]["text"] == asked[2].messages[0]["content"]


def test_orders() -> None:
    pair = row("a", "b")

    def orders(choice: Any, of: Any = pair) -> Any:
        return wording("judge_rubric", "judge_rubric_pairwise", orders=choice).orders_of(of)

    assert (orders("both"), orders("ab"), orders("apart")) == (("ab", "ba"), ("ab",), ("a", "b"))
    assert orders("both", row("a")) == (None,)
    drawn = Counter(orders("shuffled", row("a", "b", number=n))[0] for n in range(200))
    assert min(drawn["ab"], drawn["ba"]) > 70
    judge = task_of(JudgeSettings())
    assert judge.requests(row("a", "b", "c")).reason == "wrong_responses"  # type: ignore[union-attr]


def test_expected_verdict_by_hand() -> None:
    """p(3) = ½, p(4) = ¼, p(5) = ¼ of the choices; other words do not count."""
    top = {" 3": math.log(0.4), "4": math.log(0.2), " 5": math.log(0.2), "so": math.log(0.2)}
    steps = (Step("Fine. ", {}), Step("[RESULT]", {}), Step(" 3", top))
    assert expected_verdict(steps, scale()) == pytest.approx((3 * 2 + 4 + 5) / 4)
    assert expected_verdict(steps[:2], scale()) is None
    assert expected_verdict((Step("[RESULT]", {}), Step(" 3", {"so": -0.1})), scale()) is None
    judge = task_of(JudgeSettings(expected=True))
    said_ = Completion(text="[RESULT] 1", steps=(
        Step("[RESULT]", {}), Step(" 1", {" 1": math.log(0.8), " 2": math.log(0.2)})))  # fmt: skip
    both = judge.collect(row("a", "b"), [said_, said_])["judgements"]  # type: ignore[index]
    assert [j["expected"] for j in both] == pytest.approx([1.2, 1.8])


def test_structured_judgements() -> None:
    good = '{"rationale": "Two birds.", "verdict": "2"}'
    assert read_structured(good, PAIRWISE).value == 2
    assert read_structured(good, PAIRWISE).rationale == "Two birds."
    for text, reason in (
        ("", "empty"), ("Fine", "no_verdict"), (good.replace("2", "3"), "not_a_choice"),
        ('{"verdict": null}', "not_a_choice"),
    ):  # fmt: skip
        assert read_structured(text, PAIRWISE).reason == reason
    assert read_structured(good[:-3], PAIRWISE, finish_reason="length").reason == "cut_off"
    schema = JudgeSettings(output="structured", ties=True).json_schema()
    assert schema is not None
    assert schema["properties"]["verdict"]["enum"] == ["1", "2", "3", "4", "5", "tie"]


def test_settings_that_contradict_are_refused() -> None:
    def refused(match: str, **values: Any) -> None:
        with pytest.raises(ValueError, match=match):
            JudgeSettings.model_validate(values)

    refused("inside JSON", expected=True, output="structured")
    refused("read from plain text", layout="brackets", expected=True)
    refused("would not be shown", rubric="r.txt", show=[])
    assert validate(JudgeSettings(n=3))[0].startswith("n: 3 samples at temperature 0")
    assert validate(JudgeSettings(pairwise="grade_rationale"))[0].startswith("pairwise: ")
    assert not validate(JudgeSettings())


def test_a_drawn_part_and_the_one_after_it(tmp_path: Path) -> None:
    rows = [row("a", number=n) for n in range(40)]
    storage.write_rows(str(tmp_path), rows, records.JUDGEMENT_SET)

    def ids(**more: Any) -> set[str]:
        return {r["id"] for r in select(str(tmp_path), JudgeSettings.model_validate(more))}

    first, second = ids(limit=10), ids(limit=10, skip=10)
    assert (len(first), len(second), len(first & second)) == (10, 10, 0)
    assert ids(limit=5) < first
    assert ids(skip=30) == {r["id"] for r in rows} - ids(limit=30)
    assert ids(limit=10, limit_seed=1) != first
    assert not ids(splits=["train"])


def test_examples_to_learn_from() -> None:
    words = wording("judge_rubric", "judge_rubric_pairwise")
    given = {"rationale": "An oak.", "verdict": 2.0, "order": "ab"}
    (found,) = examples_of(row("a", "b", judgements=[given]), JudgementExampleSettings(), words)
    assert found["chosen"][0]["content"] == "An oak. [RESULT] 2"
    assert found["prompt"][0]["content"] == words.render(row("a", "b"), "ab")
    bare = JudgementExampleSettings(rationale=False)
    assert examples_of(row("a", judgements=[given | {"order": None}]), bare, words)[0][
        "chosen"
    ] == [{"role": "assistant", "content": "[RESULT] 2"}]
    own = [given | {"order": "ba", "verdict": v, "rationale": f"r{v:g}"} for v in (1.0, 2.0)]
    picked = row("a", "b", label=2.0, judgements=own)
    picked["judge_prompts"] = [{"order": "ba", "text": "Which?"}]
    (best,) = examples_of(picked, JudgementExampleSettings(take="correct"), words)
    # the second response is the better one, and it was shown first
    assert (best["prompt"][0]["content"], best["chosen"][0]["content"]) == (
        "Which?",
        "r2 [RESULT] 1",
    )


def test_a_real_file_through_an_endpoint(shared_data: Path, server: Server, tmp_path: Path) -> None:
    """LLMBar in both orders: stopped by its budget and resumed, every judgement drawn once."""
    uri = str(shared_data / "llmbar" / "llmbar_419.jsonl")
    run_ingest(tmp_path / "in", sources=[{"uri": uri, "format": "llmbar_judged"}])
    lock, asked = threading.Lock(), Counter[str]()

    def script(number: int, body: dict[str, Any]) -> Answer:
        text = body["messages"][0]["content"]
        with lock:
            asked[text] += 1
            seen = asked.total()
        if seen % 50 == 0:
            return 503, "busy", {"retry-after": "0"}
        # names the longer one; sometimes without a verdict
        shown = text.split("[Response 1]\n")[1].split("\n\nBeing longer")[0]
        first, second = (len(each.split()) for each in shown.split("[Response 2]\n"))
        longer = 1 if first > second else 2
        return said("Hm." if seen % 40 == 0 else f"The longer one. [RESULT] {longer}")

    server.script = script
    prices = {"input_price": 1.0, "output_price": 1.0, "unit_rows": 16, "concurrency": 8}

    def settings(budget: float) -> JudgeSettings:
        return JudgeSettings.model_validate(
            {"endpoint": options(server, **prices, max_cost=budget).model_dump()}
        )

    where = context(tmp_path / "out", f"{tmp_path}/in/rows")
    with pytest.raises(BudgetSpent):
        run(where, settings(300 * 14 / 1e6))
    first_part = asked.total()
    assert 300 <= first_part < 838
    result = run(where, settings(1.0))
    assert (result.rows_in, result.rows_out, result.metrics["judgements"]) == (419, 419, 838)
    done = result.metrics["rows_resumed"]
    assert done > 0 and asked.total() - first_part >= 2 * (419 - done)
    rows = list(storage.read_rows(f"{tmp_path}/out/rows"))
    assert len({r["id"] for r in rows}) == 419
    judgements = [j for r in rows for j in r["judgements"]]
    unreadable = [j for j in judgements if j["verdict"] is None]
    assert len(unreadable) == result.metrics["judgements_unreadable"] > 0
    assert {j["reason"] for j in unreadable} == {"no_marker"}
    assert result.metrics["cost"] > 0

    read = [StageOutput("judged", f"{tmp_path}/out/rows", "f")]
    where = context(tmp_path / "measured", "", judgements=read)
    measured = judge_accuracy.run(where, judge_accuracy.JudgeAccuracySettings(category="subset"))
    (entry,) = measured.details["judges"]
    assert entry["inputs"] == 419 and entry["kind"] == "pairwise"
    assert entry["longer_share"]["value"] > 0.98 and entry["flip_rate"]["value"] < 0.1
    assert {e["category"] for e in entry["by_category"]} > {"Natural"}


def test_real_judge_of_scores_and_pairs(
    tmp_path: Path, engines: Any, tinyworld_model: Path, shared_data: Path
) -> None:
    """The embedded judge in its own world and on a real file that it cannot understand."""
    folder = tmp_path / "raw"
    folder.mkdir()
    point, pair = (judged.TinyworldJudgementSettings(task=t) for t in ("pointwise", "pairwise"))
    raw = [judged.pointwise_row(3, n, point) for n in range(6)]
    storage.write_bytes(f"{folder}/a.jsonl", "\n".join(map(judged.json.dumps, raw)).encode())
    run_ingest(tmp_path / "points", sources=[{"uri": f"{folder}/a.jsonl"}])
    raw = [judged.pairwise_row(3, n, pair) for n in range(6)]
    storage.write_bytes(f"{folder}/b.jsonl", "\n".join(map(judged.json.dumps, raw)).encode())
    run_ingest(tmp_path / "pairs", sources=[{"uri": f"{folder}/b.jsonl"}])
    both = tmp_path / "both"
    rows = [r for part in ("points", "pairs") for r in storage.read_rows(f"{tmp_path}/{part}/rows")]
    storage.write_rows(str(both), rows, records.JUDGEMENT_SET)
    settings = JudgeSettings.model_validate(
        {
            "model": str(tinyworld_model), "pointwise": "tinyworld/judge_pointwise",
            "pairwise": "tinyworld/judge_pairwise", "show": [], "n": 3, "expected": True,
            "sampling": DRAWN.model_dump(), "in_driver": True,
        }
    )  # fmt: skip
    result = run(context(tmp_path / "out", str(both), engines), settings)
    assert result.metrics["judgements"] == 6 * 3 + 6 * 2 * 3
    found = list(storage.read_rows(f"{tmp_path}/out/rows"))
    told = [j for r in found for j in r["judgements"]]
    readable = [j for j in told if j["verdict"] is not None]
    assert len(readable) > 0.9 * len(told)
    assert sum(j["expected"] is not None for j in readable) > 0.9 * len(readable)
    assert {j["order"] for j in told} == {None, "ab", "ba"}
    # the same again gives the same texts
    again = run(context(tmp_path / "again", str(both), engines), settings)
    assert again.metrics["judgements"] == result.metrics["judgements"]
    texts = [
        j["text"] for r in storage.read_rows(f"{tmp_path}/again/rows") for j in r["judgements"]
    ]
    assert texts == [j["text"] for j in told]

    uri = str(shared_data / "llmbar" / "llmbar_419.jsonl")
    run_ingest(tmp_path / "real", sources=[{"uri": uri, "format": "llmbar_judged", "limit": 8}])
    greedy = {"n": 1, "expected": False, "sampling": Sampling(temperature=0, max_tokens=24)}
    real = settings.model_copy(update={**greedy, "max_unreadable": 1.0})
    result = run(context(tmp_path / "llmbar", f"{tmp_path}/real/rows", engines), real)
    left = sum(n for reasons in result.rejects.values() for n in reasons.values())
    assert result.rows_in == 8 == result.rows_out + left
    assert set(result.rejects) <= {"limit"}  # longer than the model's context
    kept = list(storage.read_rows(f"{tmp_path}/llmbar/rows"))
    assert all(len(r["judgements"]) == 2 for r in kept)


def test_prompts_ship() -> None:
    assert {"judge_rubric", "judge_rubric_pairwise", "judge_naive", "rate_judgement",
            "pick_rationale"} <= set(prompts.names())  # fmt: skip
