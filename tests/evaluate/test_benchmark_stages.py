"""AlpacaEval from instructions to the leaderboard, and the recipe of all benchmarks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.evaluate.test_question_stages import answer, lines, reading
from tests.evaluate.test_win_rates import context, rows_of
from tests.generate.endpoint_server import Answer, Server, options, said
from tests.report.realistic import SAMPLES, pair_rows, write_stage

from rayonale import recipe, stages, storage
from rayonale.evaluate import (
    instructions,
    leaderboard,
    win_rates,
)
from rayonale.evaluate.alpaca_eval import read_annotations
from rayonale.lineage import tracking
from rayonale.stages import StageOutput

SET = [
    {"instruction": "Say hi.", "dataset": "koala", "output": "Hi.", "generator": "gpt4"},
    {"instruction": "Say no.", "dataset": "oasst", "output": "No.", "generator": "gpt4"},
    {"instruction": "Say hi.", "dataset": "koala", "output": "Hello.", "generator": "gpt4"},
]


def test_instructions_with_a_baselines_outputs(tmp_path: Path) -> None:
    where = reading(context(tmp_path, [], name="set"))
    file = tmp_path / "set.json"
    file.write_text(json.dumps(SET))
    result = instructions.run(where, instructions.InstructionSettings(file=str(file)))
    assert (result.rows_in, result.rows_out) == (3, 2)
    assert result.rejects == {"filtered": {"duplicate_instruction": 1}}
    assert result.details == {"policy": "gpt4"}
    first, second = rows_of(where)
    assert (first["index"], second["index"], second["dataset"]) == (0, 1, "oasst")
    assert second["responses"] == ["No."] and second["split"] == "test"
    # the same from two files, one of which lacks an output
    bare = lines(tmp_path / "bare.jsonl", [{"instruction": row["instruction"]} for row in SET])
    outputs = tmp_path / "outputs.json"
    outputs.write_text(json.dumps(SET[:1]))
    settings = instructions.InstructionSettings(file=bare, outputs=str(outputs))
    result = instructions.run(reading(context(tmp_path, [], name="two")), settings)
    assert result.rejects == {"filtered": {"no_output": 1, "duplicate_instruction": 1}}
    with pytest.raises(ValueError, match="holds outputs already"):
        instructions.run(where, settings.model_copy(update={"file": str(file)}))
    outputs.write_text(json.dumps([*SET[:1], SET[1] | {"generator": "other"}]))
    with pytest.raises(ValueError, match="outputs of gpt4, other; expected those of one"):
        instructions.run(where, settings)
    outputs.write_text(json.dumps([{"output": "x"}]))
    with pytest.raises(ValueError, match=r"outputs\.json\[0\]: no instruction"):
        instructions.run(where, settings)


@pytest.mark.parametrize("verdict", ["text", "first_token"])
def test_a_policy_against_the_baseline_to_the_leaderboard(
    tmp_path: Path,
    server: Server,
    verdict: str,
) -> None:
    """From instructions and samples to the leaderboard's row and alpaca_eval's own file."""

    def script(number: int, body: dict[str, Any]) -> Answer:
        text = body["messages"][-1]["content"]
        mine_first = text.index("My ") < min(text.find(t) for t in ("Hi.", "No.") if t in text)
        if verdict == "text":
            return said(f"So. [RESULT] {1 if mine_first else 2}")
        # P(1) = 0.75 when mine is shown first, 0.5 when the baseline is
        share = 0.75 if mine_first else 0.5
        top = [{"token": t, "logprob": p} for t, p in
               (("1", float(np.log(share))), ("2", float(np.log(1 - share))))]  # fmt: skip
        return said("1", logprobs={"content": [{**top[0], "top_logprobs": top}]})

    server.script = script
    file = tmp_path / "set.json"
    file.write_text(json.dumps(SET[:2]))
    base = reading(context(tmp_path, [], name="set"))
    told = instructions.run(base, instructions.InstructionSettings(file=str(file)))
    baseline = StageOutput("set", base.out, "f" * 32, "instructions", {"details": told.details})
    rows = [{"id": row["id"], "prompt": row["prompt"], "responses": [f"My {row['index']}"],
             "response_tokens": [2]} for row in rows_of(base)]  # fmt: skip
    model = write_stage(tmp_path, "rdpo", "train")
    mine = write_stage(tmp_path, "mine", "samples", {"model": model}, rows=(rows[::-1], SAMPLES))
    where = context(tmp_path, [mine, baseline])
    judged = {"kind": "endpoint", "name": "j", "endpoint": options(server).model_dump(),
              "verdict": verdict}  # fmt: skip
    judged |= {"template": "judge_first_token"} if verdict == "first_token" else {}
    win_rates.run(where, win_rates.WinRateSettings.model_validate(
        {"baseline": "set", "judges": [judged]}
    ))  # fmt: skip
    compared = StageOutput("compared", where.out, "f" * 32, "win_rates")
    board = reading(context(tmp_path, [], name="board"), rows=compared, instructions=baseline)
    result = leaderboard.run(board, leaderboard.AlpacaEvalSettings(length_controlled=False))
    # first_token: (0.75 + (1 − 0.5)) / 2 = 0.625
    expected = 100.0 if verdict == "text" else 62.5
    assert result.metrics["alpaca_eval/rdpo_vs_gpt4/win_rate"] == pytest.approx(expected)
    file_of = storage.join(board.out, "annotations", "rdpo_vs_gpt4.json")
    written = {row["index"]: row for row in storage.read_json(file_of)}
    assert [(written[n]["instruction"], written[n]["dataset"]) for n in (0, 1)] == [
        ("Say hi.", "koala"), ("Say no.", "oasst")
    ]  # fmt: skip
    assert written[1]["generator_1"] == "gpt4" and written[1]["output_2"] == "My 1"
    assert read_annotations(file_of)["rdpo"].preference.tolist() == pytest.approx(
        [expected / 100] * 2
    )
    if verdict == "first_token":
        assert {body["max_tokens"] for _, body, _ in server.seen} == {1}
    with pytest.raises(ValueError, match="difficulties belong to places in a set"):
        leaderboard.run(reading(board, rows=compared), leaderboard.AlpacaEvalSettings(
            difficulty="d.jsonl"))  # fmt: skip
    other = StageOutput("other", str(tmp_path / "none"), "f" * 32, "instructions", {})
    storage.write_rows(other.rows, [], instructions.ROWS)
    with pytest.raises(ValueError, match="none of the instructions read"):
        leaderboard.run(reading(board, rows=compared, instructions=other),
                        leaderboard.AlpacaEvalSettings(length_controlled=False))  # fmt: skip


def test_the_shipped_recipe_end_to_end(
    tmp_path: Path, shared_data: Path, engines: Any, tinyworld_model: Path
) -> None:
    """Real questions, the embedded model as policy and as judge, every stage of the recipe."""
    overrides = _real_files(tmp_path, shared_data)
    where = Path(__file__).resolve().parents[2] / "configs/evaluation/benchmarks.yaml"
    loaded = recipe.load(str(where), overrides)
    outputs: dict[str, StageOutput] = {}
    with tracking.Tracker("benchmarks", str(tmp_path / "runs")) as tracker:
        for name, planned in loaded.stages.items():
            inputs: dict[str, Any] = {
                role: [outputs[n] for n in names] if isinstance(names, list) else outputs[names]
                for role, names in planned.reads.items()
            }
            outputs[name] = stages.run_stage(
                planned.stage, planned.settings, name=name, inputs=inputs,
                folder=str(tmp_path / "runs"), engines=engines, tracker=tracker,
            )  # fmt: skip
    told = {name: output.manifest for name, output in outputs.items()}
    assert told["instructions"]["rows_out"] == told["alpaca_samples"]["rows_out"] == 9
    (board,) = told["alpaca_eval"]["details"]["alpaca_eval"]
    assert board["id"] == "alpaca_samples_vs_baseline" and 0 <= board["win_rate"] <= 100
    assert board["n_total"] + sum(
        n for reasons in told["alpaca_judged"]["rejects"].values() for n in reasons.values()
    ) == 9  # fmt: skip
    (row, _) = storage.read_rows(outputs["mt_bench_answers"].rows)
    assert len(row["answers"]) == 2 and row["answer_tokens"][1] > 0
    graded_ = told["mt_bench"]["details"]["mt_bench"]
    assert [one["graded"] + one["unreadable"] for one in graded_] == [4]
    assert told["mt_bench_pairs"]["rows_in"] == 4 == told["arena_hard"]["rows_in"] * 2
    page = Path(told["report"]["details"]["report"]).read_text()
    assert "Benchmarks" in page and "alpaca_samples_vs_baseline" in page


def _real_files(tmp_path: Path, shared_data: Path) -> list[str]:
    """Overrides that put a handful of the published questions in the recipe's files' place."""

    def some(file: str, keep: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in (shared_data / file).read_text().splitlines()]
        return [row for row in rows if keep(row)]

    text = "alpaca_eval/text_alpaca-7b_vs_baseline_400.jsonl"
    short = some(text, lambda r: len(r["instruction"] + r["output_1"]) < 300)[:3]
    given = [(row["instruction"], row["output_1"]) for row in short]
    # the embedded judge's verdicts can be read where it is asked about its own world
    given += [(row["prompt"][0]["content"], row["chosen"][0]["content"]) for row in pair_rows(6)]
    layout = [{"instruction": one, "output": two, "generator": "baseline"} for one, two in given]
    alpaca = lines(tmp_path / "alpaca.jsonl", layout)
    kept = (101, 81)  # one with a right answer, one without
    mt = some("mt_bench/question.jsonl", lambda r: r["question_id"] in kept)
    references = some("mt_bench/reference_answer_gpt-4.jsonl", lambda r: r["question_id"] in kept)
    answered = [row for row in some("mt_bench/model_answer_5models.jsonl",
                                    lambda r: r["question_id"] in kept)
                if row["model_id"] == "alpaca-13b"]  # fmt: skip
    hard = some("arena_hard/question_v0.1.jsonl", lambda r: len(r["turns"][0]["content"]) < 150)[:2]
    base = [answer("gpt-4-0314", row["question_id"], "A short answer.") for row in hard]
    mt_file, hard_file = lines(tmp_path / "mt.jsonl", mt), lines(tmp_path / "hard.jsonl", hard)
    changes = {
        "instructions.file": alpaca,
        "mt_bench_answers.questions": mt_file,
        "mt_bench.questions": mt_file,
        "mt_bench_pairs.questions": mt_file,
        "mt_bench.references": lines(tmp_path / "references.jsonl", references),
        "mt_bench_pairs.references": str(tmp_path / "references.jsonl"),
        "mt_bench_pairs.answers": f"[{lines(tmp_path / 'answered.jsonl', answered)}]",
        "mt_bench_pairs.baseline": "alpaca-13b",
        "arena_hard_answers.questions": hard_file,
        "arena_hard.questions": hard_file,
        "arena_hard.answers": f"[{lines(tmp_path / 'base.jsonl', base)}]",
    }
    short_texts = [f"stages.{name}.sampling.max_tokens=48" for name in
                   ("alpaca_samples", "mt_bench_answers", "arena_hard_answers")]  # fmt: skip
    short_texts += [f"stages.{name}.judge.sampling.max_tokens=16" for name in
                    ("mt_bench", "arena_hard")]  # fmt: skip
    return [f"stages.{key}={value}" for key, value in changes.items()] + short_texts
