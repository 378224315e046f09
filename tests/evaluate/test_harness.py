"""lm-evaluation-harness as a stage: settings, task files, results; and a real run."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.evaluate.test_win_rates import context, rows_of

from rayonale import llama2c
from rayonale.evaluate import harness, harness_process, harness_scores
from rayonale.evaluate.harness import HarnessSettings, HarnessTask
from rayonale.evaluate.harness_benchmarks import BENCHMARKS
from rayonale.evaluate.harness_files import write_task
from rayonale.evaluate.harness_process import answer_for_vllm

ROOT = Path(__file__).resolve().parents[2]


def settings(**given: Any) -> HarnessSettings:
    return HarnessSettings.model_validate(
        {"tasks": [{"task": "local/gsm8k", "data": "x"}], **given}
    )


def test_settings_that_are_ignored_are_refused() -> None:
    with pytest.raises(ValidationError, match="has its own data"):
        settings(tasks=[{"task": "gsm8k", "data": "x.jsonl"}])
    with pytest.raises(ValidationError, match=r"engine\.replicas: the harness runs its own"):
        settings(engine={"replicas": 2})
    with pytest.raises(ValidationError, match=r"engine\.kv_cache_gib.*backend hf"):
        settings(backend="hf", engine={"kv_cache_gib": 1})
    with pytest.raises(ValidationError, match="batch_size: vLLM chooses for itself"):
        settings(backend="vllm", batch_size=4)
    with pytest.raises(ValidationError, match="at least 1 item"):
        settings(tasks=[])
    with pytest.raises(ValidationError, match="either a task or a benchmark"):
        settings(tasks=[{"task": "arc_easy", "benchmark": "arc"}])
    missing = harness.STAGE.validate(settings(tasks=[{"task": "local/nothing"}]))
    assert "tasks.0.task: no file" in missing[0] and "local/gsm8k" in missing[0]
    assert harness.STAGE.validate(settings()) == []


def test_benchmarks_have_the_shots_that_are_reported() -> None:
    assert {name: (known.task, known.shots) for name, known in BENCHMARKS.items()} == {
        "gsm8k": ("gsm8k_cot", 8),
        "bbh": ("leaderboard_bbh", 3),
        "arc": ("arc_challenge", 25),
        "truthfulqa": ("truthfulqa_mc2", 0),
        "gpqa": ("leaderboard_gpqa", 0),
        "musr": ("leaderboard_musr", 0),
        "triviaqa": ("triviaqa", 0),
    }
    own = HarnessTask(benchmark="arc")
    assert (own.named, own.shown, own.file, own.by) == ("arc_challenge", 25, None, None)
    local = HarnessTask(benchmark="bbh", data="bbh.jsonl")
    assert (local.named, local.shown, local.by) == ("local/bbh", 3, "task")
    for name in ("gsm8k", "bbh", "truthfulqa"):
        task = HarnessTask(benchmark=name, data="d", examples="e" if name == "gsm8k" else None)
        assert task.file is not None and task.file.is_file()
    assert HarnessTask(benchmark="bbh", data="bbh.jsonl", shots=1).shown == 1
    with pytest.raises(ValidationError, match="unknown benchmark 'arcc'; choices: gsm8k, bbh, arc"):
        HarnessTask(benchmark="arcc")
    with pytest.raises(ValidationError, match="benchmark 'arc' has no local task"):
        HarnessTask(benchmark="arc", data="x.jsonl")
    with pytest.raises(ValidationError, match="examples: missing; gsm8k shows 8 of them"):
        HarnessTask(benchmark="gsm8k", data="x.jsonl")
    with pytest.raises(ValidationError, match="belong to data"):
        HarnessTask(task="local/bbh", each="task")


def test_a_harness_that_is_not_there_is_told(tmp_path: Path) -> None:
    where = context(tmp_path, [])
    with pytest.raises(
        ValueError, match="no lm_eval there; install it with: pip install --no-deps"
    ):
        harness.run(where, settings(packages=str(tmp_path)))


def test_data_is_put_into_a_task(tmp_path: Path) -> None:
    data = tmp_path / "d.jsonl"
    data.write_text('{"Best Answer": "a", "Question": "日?"}\n\n')
    task = HarnessTask(task="local/truthfulqa_mc1", data=str(data))
    (file,) = write_task(tmp_path / "tasks", 3, task)
    copy = tmp_path / "tasks" / "3.jsonl"
    written = Path(file).read_text()
    assert str(copy) in written and "DATA" not in written
    assert json.loads(copy.read_text()) == {"Best_Answer": "a", "Question": "日?"}
    assert write_task(tmp_path, 0, HarnessTask(task="arc_easy")) == ["arc_easy"]
    with pytest.raises(ValueError, match="DATA in it is not given: expected `data`"):
        write_task(tmp_path, 0, HarnessTask(task="local/bbh"))
    with pytest.raises(ValueError, match="EXAMPLES in it is not given: expected `examples`"):
        write_task(tmp_path, 0, HarnessTask(task="local/gsm8k_cot", data=str(data)))
    own = tmp_path / "own.yaml"
    own.write_text("task: own\n")
    with pytest.raises(ValueError, match="has no DATA for `data`"):
        write_task(tmp_path, 0, HarnessTask(task=str(own), data=str(data)))
    data.write_text("{\n")
    with pytest.raises(ValueError, match=r"d\.jsonl:1: not JSON"):
        write_task(tmp_path, 0, task)


def test_every_value_of_a_column_becomes_a_task(tmp_path: Path) -> None:
    data = tmp_path / "bbh.jsonl"
    rows = [{"task": name, "input": str(n), "target": "x"}
            for n, name in enumerate(["navigate", "web of lies", "navigate"])]  # fmt: skip
    data.write_text("\n".join(map(json.dumps, rows)))
    files = write_task(tmp_path / "t", 0, HarnessTask(benchmark="bbh", data=str(data)))
    assert [Path(file).name for file in files] == ["0_navigate.yaml", "0_web_of_lies.yaml"]
    text = Path(files[1]).read_text()
    assert "task: bbh_local__web_of_lies" in text and "0_web_of_lies.jsonl" in text
    lines = (tmp_path / "t/0_navigate.jsonl").read_text().splitlines()
    assert [json.loads(line)["input"] for line in lines] == ["0", "2"]
    data.write_text('{"input": "1"}')
    with pytest.raises(ValueError, match="a line without 'task'"):
        write_task(tmp_path / "t", 0, HarnessTask(benchmark="bbh", data=str(data)))


def test_the_request_carries_the_settings(tmp_path: Path, tinyworld_model: Path) -> None:
    own = [{"benchmark": "arc"}, {"task": "piqa"}, {"task": "boolq", "shots": 0}]
    model = str(tinyworld_model)
    told = harness.request(model, settings(tasks=own, shots=3, limit=5, chat=True), tmp_path)
    assert [(t["task"], t["shots"]) for t in told["tasks"]] == [
        ("arc_challenge", 25), ("piqa", 3), ("boolq", 0)
    ]  # fmt: skip
    assert (told["limit"], told["chat"], told["batch_size"]) == (5, True, 16)
    (vllm, first), (hf, second) = told["backends"]
    assert (vllm, hf) == ("vllm", "hf")
    assert first["pretrained"] == model and "model" not in first
    assert second == {"pretrained": model, "dtype": second["dtype"], "max_length": 2048}
    one = harness.request("org/m@v1", settings(tasks=own, backend="hf"), tmp_path)
    ((name, given),) = one["backends"]
    assert (name, given["pretrained"], given["revision"]) == ("hf", "org/m", "v1")


def test_vllm_is_passed_over_where_it_has_no_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness_process, "cpu_head_sizes", lambda: [32, 64])
    backends = [("vllm", {"pretrained": str(tmp_path)}), ("hf", {"pretrained": str(tmp_path)})]
    for config, expected in (
        ({"hidden_size": 128, "num_attention_heads": 8}, "hf"),
        ({"hidden_size": 128, "num_attention_heads": 4}, "vllm"),
        ({"head_dim": 16, "hidden_size": 128, "num_attention_heads": 4}, "hf"),
        ({}, "vllm"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert harness_process.chosen(backends, on_gpu=False)[0] == expected, config
        assert harness_process.chosen(backends, on_gpu=True)[0] == "vllm"
    assert harness_process.chosen(backends[1:], on_gpu=False)[0] == "hf"


def test_results_are_read() -> None:
    values = {
        "alias": "t",
        "exact_match,last-number": 0.25,
        "exact_match_stderr,last-number": 0.1,
        "acc,none": 1,
        "acc_stderr,none": "N/A",
    }
    sample = {"doc_id": 7, "target": "4", "filtered_resps": ["four"], "filter": "last-number",
              "metrics": ["exact_match"], "exact_match": 0.0}  # fmt: skip
    results = {"results": {"t": values}, "samples": {"t": [sample]}, "n-shot": {"t": 8}}
    assert harness.samples(results) == [
        {"id": "t/last-number/7", "task": "t", "filter": "last-number",
         "target": "4", "response": "four", "metrics": [{"name": "exact_match", "value": 0.0}]}
    ]  # fmt: skip
    table = harness.tables(results)
    assert table[0] == {
        "task": "t", "metric": "exact_match", "filter": "last-number", "value": 0.25,
        "stderr": 0.1, "shots": 8, "samples": 1,
    }  # fmt: skip
    assert harness.metrics_of(table) == {
        "harness/t/exact_match/last-number": 0.25,
        "harness/t/exact_match/last-number/stderr": 0.1,
        "harness/t/acc": 1.0,
    }


def test_the_parts_of_a_benchmark_are_averaged() -> None:
    found = {
        "b__one": {"acc,none": 0.2, "acc_stderr,none": 0.03},
        "b__two": {"acc,none": 0.6, "acc_stderr,none": 0.04},
    }
    told = harness.metrics_of(harness.tables({"results": found}))
    assert told["harness/b/acc"] == pytest.approx(0.4)
    # √(0.03² + 0.04²) / 2 = 0.05 / 2
    assert told["harness/b/acc/stderr"] == pytest.approx(0.025)


def test_scores_of_local_tasks() -> None:
    doc = {"Correct_Answers": "yes; indeed", "Incorrect_Answers": "no;"}
    assert harness_scores.choices(doc) == ["yes", "indeed", "no"]
    # e^−1 and e^−2 are right, e^−1 is wrong: 0.50321 of 0.87109
    told = harness_scores.truthfulqa_mc2(doc, [(-1.0, 0), (-2.0, 0), (-1.0, 0)])
    assert told["acc"] == pytest.approx(0.57768, abs=1e-5)
    far = harness_scores.truthfulqa_mc2(doc, [(-5000.0, 0), (-6000.0, 0), (-5000.0, 0)])
    assert far["acc"] == pytest.approx(0.5)
    told = harness_scores.text_likelihood({"text": "four"}, [(-6.0, False)])
    assert told == {"nats": 6.0, "nats_per_character": 1.5}
    same = harness_scores.same_text
    assert same({"continuation": "abcd"}, ["abcx"]) == {"same_characters": 0.75}
    assert same({"continuation": "abcd"}, ["ab"]) == {"same_characters": 1.0}
    assert same({"continuation": ""}, ["ab"]) == {"same_characters": 0.0}


def test_the_version_of_vllm_is_that_of_its_cpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(name: str) -> str:
        if name in ("vllm", "nothing"):
            raise metadata.PackageNotFoundError(name)
        return "0.32.0"

    monkeypatch.setattr(metadata, "version", ask)
    answer_for_vllm()
    assert metadata.version("vllm") == "0.32.0+cpu"
    assert metadata.version("torch") == "0.32.0"
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.version("nothing")


HARNESS = pytest.mark.skipif(
    not (ROOT / ".harness" / "lm_eval").is_dir(),
    reason=f"lm-evaluation-harness is not installed: {harness.INSTALL.format('.harness')}",
)


@pytest.mark.slow
@HARNESS
def test_tinyworld_through_vllm_offline(
    tmp_path: Path, shared_data: Path, tinyworld_model: Path
) -> None:
    """The three benchmarks whose data is local."""
    bbh = tmp_path / "bbh.jsonl"  # two of its 27 tasks
    lines = (shared_data / "bbh/first20_per_task.jsonl").read_text().splitlines()
    bbh.write_text("\n".join([*lines[:20], *lines[40:60]]))
    tasks = [
        {"benchmark": "gsm8k", "data": str(shared_data / "gsm8k/test_first300.jsonl"),
         "examples": str(shared_data / "gsm8k/train_first500.jsonl"), "shots": 2},
        {"benchmark": "bbh", "data": str(bbh)},
        {"benchmark": "truthfulqa", "data": str(shared_data / "truthfulqa/truthfulqa.jsonl")},
    ]  # fmt: skip
    given = settings(
        model=str(tinyworld_model), tasks=tasks, limit=4, packages=str(ROOT / ".harness"),
        engine={"max_model_len": 1024, "kv_cache_gib": 0.25}, timeout_s=900,
    )  # fmt: skip
    where = context(tmp_path, [])
    result = harness.run(where, given)
    assert result.details["backend"] == "vllm"
    rows = rows_of(where)
    table = {(row["task"], row["filter"]): row for row in result.details["harness"]}
    assert table["gsm8k_cot_local", "last-number"]["shots"] == 2
    parts = [row for row in table.values() if row["task"].startswith("bbh_local__")]
    assert [row["shots"] for row in parts] == [3, 3]
    assert table["bbh_local", None]["value"] == pytest.approx(sum(r["value"] for r in parts) / 2)
    told = [m["value"] for row in rows if row["task"] == "truthfulqa_mc2_local"
            for m in row["metrics"]]  # fmt: skip
    assert len(told) == 4 and all(0 < value < 1 for value in told)
    assert result.metrics["harness/truthfulqa_mc2_local/acc"] == pytest.approx(sum(told) / 4)
    assert sys.modules.get("lm_eval") is None  # it ran in a process of its own


@pytest.mark.slow
@HARNESS
def test_pretrained_weights_write_and_weigh_what_is_known(
    tmp_path: Path, shared_data: Path
) -> None:
    """Through Transformers, which `auto` takes: vLLM on CPU has no kernel for heads of 16."""
    source = shared_data / "tiny_lm"
    model = tmp_path / "tiny_lm"
    llama2c.convert(source / "babyllama_tok105_model5000.bin", source / "tok105.json", model)
    expected = json.loads((source / "expected.json").read_text())
    greedy = expected["greedy_prompt"]
    begun = len(greedy["prompt"]) + 1  # the tokenizer writes a blank before every text
    rest = {"prompt": greedy["prompt"], "continuation": greedy["text"][begun:]}
    (tmp_path / "greedy.jsonl").write_text(json.dumps(rest))
    texts = [json.dumps({"text": one["text"]}) for one in expected["nll_per_char"]]
    (tmp_path / "texts.jsonl").write_text("\n".join(texts))
    tasks = [
        {"task": "local/continuation", "data": str(tmp_path / "greedy.jsonl")},
        {"task": "local/perplexity", "data": str(tmp_path / "texts.jsonl")},
    ]
    given = settings(
        model=str(model), tasks=tasks, packages=str(ROOT / ".harness"), timeout_s=900,
        engine={"max_model_len": 256},
    )  # fmt: skip
    where = context(tmp_path, [])
    result = harness.run(where, given)
    assert result.details["backend"] == "hf"
    assert result.metrics["harness/continuation_local/same_characters"] == 1.0
    rows = {row["id"]: row for row in rows_of(where)}
    written = rows["continuation_local/none/0"]["response"]
    assert len(written) >= 60 and rest["continuation"].startswith(written)
    for number, one in enumerate(expected["nll_per_char"]):
        told = {m["name"]: m["value"] for m in rows[f"perplexity_local/none/{number}"]["metrics"]}
        assert told["nats"] / one["n"] == pytest.approx(one["nll"], abs=1e-5)


@pytest.mark.slow
@HARNESS
def test_a_task_whose_data_cannot_be_had_is_told(tmp_path: Path, tinyworld_model: Path) -> None:
    given = settings(
        model=str(tinyworld_model), tasks=[{"benchmark": "arc"}], backend="hf", timeout_s=300,
        packages=str(ROOT / ".harness"),
    )  # fmt: skip
    with pytest.raises(ValueError, match="'arc_challenge' could not be loaded .*Hugging Face hub"):
        harness.run(context(tmp_path, []), given)
