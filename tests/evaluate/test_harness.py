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

from rayonale.evaluate import harness
from rayonale.evaluate.harness import HarnessSettings, HarnessTask, metrics_of, read_results
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
    with pytest.raises(ValidationError, match="at least 1 item"):
        settings(tasks=[])
    missing = harness.STAGE.validate(settings(tasks=[{"task": "local/nothing"}]))
    assert "tasks.0.task: no file" in missing[0] and "local/gsm8k" in missing[0]
    assert harness.STAGE.validate(settings()) == []


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
    written = Path(harness._write_task(tmp_path / "tasks", 3, task)).read_text()
    copy = tmp_path / "tasks" / "3.jsonl"
    assert str(copy) in written and "DATA" not in written
    assert json.loads(copy.read_text()) == {"Best_Answer": "a", "Question": "日?"}
    assert harness._write_task(tmp_path, 0, HarnessTask(task="arc_easy")) == "arc_easy"
    with pytest.raises(ValueError, match="DATA in it is not given"):
        harness._write_task(tmp_path, 0, HarnessTask(task="local/bbh"))
    own = tmp_path / "own.yaml"
    own.write_text("task: own\n")
    with pytest.raises(ValueError, match="has no DATA for `data`"):
        harness._write_task(tmp_path, 0, HarnessTask(task=str(own), data=str(data)))


def test_the_command_line_carries_the_settings() -> None:
    told = harness.arguments("m", ["a", "b"], "out", settings(shots=3, limit=5, chat=True))
    line = " ".join(told)
    assert "--tasks a,b" in line and "--num_fewshot 3" in line and "--limit 5" in line
    assert told[-1] == "--apply_chat_template"
    given = json.loads(told[told.index("--model_args") + 1])
    assert given["pretrained"] == "m" and "model" not in given
    plain = harness.arguments("m", ["a"], "out", settings())
    assert not {"--num_fewshot", "--limit", "--apply_chat_template"} & set(plain)


def test_results_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    values = {
        "alias": "t",
        "exact_match,last-number": 0.25,
        "exact_match_stderr,last-number": 0.1,
        "acc,none": 1,
        "acc_stderr,none": "N/A",
    }
    results = {"results": {"t": values}}
    (folder / "results_2026-01-01T00-00-00.1.json").write_text(json.dumps(results))
    sample = {"doc_id": 7, "target": "4", "filtered_resps": ["four"], "filter": "last-number",
              "metrics": ["exact_match"], "exact_match": 0.0}  # fmt: skip
    file = folder / "samples_my_task_2026-01-01T00-00-00.1.jsonl"
    file.write_text(json.dumps(sample) + "\n")
    read, rows = read_results(tmp_path)
    assert rows == [
        {"id": "my_task/last-number/7", "task": "my_task", "filter": "last-number",
         "target": "4", "response": "four", "metrics": [{"name": "exact_match", "value": 0.0}]}
    ]  # fmt: skip
    assert metrics_of(read) == {
        "harness/t/exact_match/last-number": 0.25,
        "harness/t/exact_match/last-number/stderr": 0.1,
        "harness/t/acc": 1.0,
    }
    with pytest.raises(ValueError, match="0 results files"):
        read_results(folder / "nowhere")


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


@pytest.mark.slow
@pytest.mark.skipif(
    not (ROOT / ".harness" / "lm_eval").is_dir(),
    reason=f"lm-evaluation-harness is not installed: {harness.INSTALL.format('.harness')}",
)
@pytest.mark.parametrize(
    "real_weights",
    [
        pytest.param(False, id="tinyworld"),
        pytest.param(
            True,
            id="tiny_lm",
            marks=pytest.mark.xfail(
                strict=True,
                raises=ValueError,
                reason="vLLM 0.32 on CPU has no attention kernel for heads of 16 values",
            ),
        ),
    ],
)
def test_a_real_run_offline(
    tmp_path: Path, shared_data: Path, tinyworld_model: Path, real_weights: bool
) -> None:
    model, length = tinyworld_model, 1024
    if real_weights:
        from rayonale import llama2c

        model, length = tmp_path / "tiny_lm", 256
        source = shared_data / "tiny_lm"
        llama2c.convert(source / "babyllama_tok105_model5000.bin", source / "tok105.json", model)
    tasks = [
        {"task": "local/gsm8k", "data": str(shared_data / "gsm8k/test_first300.jsonl")},
        {"task": "local/bbh", "data": str(shared_data / "bbh/first20_per_task.jsonl")},
        {"task": "local/truthfulqa_mc1", "data": str(shared_data / "truthfulqa/truthfulqa.jsonl")},
    ]
    given = settings(
        model=str(model), tasks=tasks, limit=8, shots=0, packages=str(ROOT / ".harness"),
        engine={"max_model_len": length, "kv_cache_gib": 0.25}, timeout_s=900,
    )  # fmt: skip
    where = context(tmp_path, [])
    result = harness.run(where, given)
    rows = rows_of(where)
    assert len(rows) == result.rows_out == 24
    assert {row["task"] for row in rows} == {"gsm8k_local", "bbh_local", "truthfulqa_mc1_local"}
    for task, metric in (("bbh_local", "exact_match"), ("truthfulqa_mc1_local", "acc")):
        told = [m["value"] for row in rows if row["task"] == task for m in row["metrics"]]
        assert result.metrics[f"harness/{task}/{metric}"] == pytest.approx(sum(told) / 8)
    assert sys.modules.get("lm_eval") is None  # it ran in a process of its own
