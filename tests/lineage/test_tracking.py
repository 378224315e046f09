"""MLflow holds what happened, whoever else writes and whatever breaks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lineage.conftest import make_small_recipe, run_stage, wait_for

from rayonale.lineage import record, tracking


def _client(runs: str) -> Any:
    return tracking.client_of(tracking.default_uri(runs))


def _runs(runs: str, experiment: str = "small") -> dict[str, Any]:
    client = _client(runs)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return {run.data.tags.get("rayonale.stage", "execution"): run for run in found}


def test_a_stage_is_a_run_with_settings_inputs_counts_and_parents(small_recipe: Any) -> None:
    runs, outputs = small_recipe
    found = _runs(runs)
    dpo, sft = found["dpo"], outputs["sft"]
    assert dpo.info.status == "FINISHED"
    assert dpo.data.params == {"loss.name": "dpo"}
    assert dpo.data.tags["mlflow.parentRunId"] == found["execution"].info.run_id
    assert dpo.data.metrics["rows_out"] == 8
    assert dpo.data.metrics["rows_per_second"] == 5.0
    assert dpo.data.metrics["rejects.invalid.missing_field"] == 2
    parents = json.loads(dpo.data.tags["rayonale.parents"])
    assert [(p["role"], p["name"]) for p in parents] == [("rows", "rationales"), ("model", "sft")]
    data = {i.dataset.name: i.dataset.digest for i in dpo.inputs.dataset_inputs}
    assert data["sft"] == sft.fingerprint
    dpo = _client(runs).get_run(dpo.info.run_id)  # a search leaves models out
    assert dpo.inputs.model_inputs[0].model_id == sft.manifest["registered_model"]["model_id"]


def test_the_curve_has_every_step_in_order(small_recipe: Any) -> None:
    runs, outputs = small_recipe
    curve = _client(runs).get_metric_history(outputs["sft"].manifest["mlflow_run_id"], "loss")
    assert [(m.step, m.value) for m in curve] == [(s, 1 / (s + 1)) for s in range(300)]


def test_prompts_and_raw_files_are_recorded(small_recipe: Any) -> None:
    runs, outputs = small_recipe
    client, manifest = _client(runs), outputs["rationales"].manifest
    name = "prompts/tinyworld/rationale_general.txt"
    path = client.download_artifacts(manifest["mlflow_run_id"], name)
    expected = manifest["prompts"]["tinyworld/rationale_general"]["text"]
    assert Path(path).read_text() == expected
    raw = _runs(runs)["pairs"].inputs.dataset_inputs[0].dataset
    assert raw.name == "pairs.jsonl"
    assert json.loads(raw.source)["bytes"] == 16


def test_models_are_registered_and_found_again(small_recipe: Any) -> None:
    runs, outputs = small_recipe
    model = outputs["dpo"].manifest["registered_model"]
    assert (model["name"], model["version"]) == ("small-dpo", 1)
    _client(runs).set_registered_model_alias("small-dpo", "best", "1")
    for ref in ("models:/small-dpo/1", "models:/small-dpo@best", f"models:/{model['model_id']}"):
        assert tracking.registered_model_folder(ref, runs) == f"{outputs['dpo'].uri}/model"


def test_a_version_is_promoted_and_rolled_back(small_recipe: Any) -> None:
    runs, _ = small_recipe
    from rayonale.lineage import registered_models

    assert registered_models.promote("models:/small-dpo", "champion", runs) == (None, 1)
    assert registered_models.promote("models:/small-dpo/1", "champion", runs) == (1, 1)
    assert registered_models.version_of("models:/small-dpo@champion", runs).version in (1, "1")
    for ref, told in (
        ("models:/none", "no registered model of that name"),
        ("models:/small-dpo/9", "versions: 1"),
    ):
        with pytest.raises(ValueError, match=told):
            registered_models.promote(ref, "champion", runs)


@pytest.mark.parametrize(
    ("ref", "told"),
    [
        ("models:/small-dpoo/1", "did you mean 'small-dpo'"),
        ("models:/small-dpo/9", "versions: 1"),
        ("models:/small-dpo", "expected models:/name/version"),
    ],
)
def test_an_unknown_model_is_told_with_choices(small_recipe: Any, ref: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        tracking.registered_model_folder(ref, small_recipe[0])


def test_reuse_is_noted(small_recipe: Any) -> None:
    runs, outputs = small_recipe
    execution = _runs(runs)["execution"].data.tags
    assert execution["rayonale.reused.pairs"] == outputs["pairs"].manifest["mlflow_run_id"]
    assert "pairs: reused" in execution["mlflow.note.content"]


def test_logging_a_step_takes_less_than_a_millisecond(tmp_path: Path) -> None:
    with tracking.Tracker("fast", str(tmp_path)) as tracker:

        def work(run: tracking.Run) -> dict[str, Any]:
            values = {f"metric_{i}": 0.5 for i in range(15)}
            started = time.process_time()
            for step in range(1_000):
                run.log_metrics(values, step)
            assert (time.process_time() - started) / 1_000 < 1e-3
            return {}

        run_stage(tracker, "train", "train", {}, {}, work)


def test_an_error_fails_the_run_and_goes_on(tmp_path: Path) -> None:
    def broken(run: tracking.Run) -> dict[str, Any]:
        run.log_metrics({"loss": 3.0}, step=1)
        raise RuntimeError("no space left")

    with (
        pytest.raises(RuntimeError, match="no space left"),
        tracking.Tracker("small", str(tmp_path)) as t,
    ):
        run_stage(t, "sft", "train", {}, {}, broken)
    found = _runs(str(tmp_path))
    assert (found["sft"].info.status, found["execution"].info.status) == ("FAILED", "FAILED")
    assert found["sft"].data.tags["rayonale.error"] == "RuntimeError: no space left"
    assert found["sft"].data.metrics == {"loss": 3.0}


def test_long_and_odd_settings_fit(tmp_path: Path) -> None:
    settings = {f"s{i}": i for i in range(250)} | {"rubric": "x" * 9_000, "a": {"ü@": [1, {}]}}
    with tracking.Tracker("small", str(tmp_path)) as t:
        done = run_stage(t, "sft", "train", {}, settings, lambda run: {})
    run = _runs(str(tmp_path))["sft"]
    assert len(run.data.params) == 252
    assert len(run.data.params["rubric"]) == record.PARAM_LIMIT
    path = _client(str(tmp_path)).download_artifacts(
        done.manifest["mlflow_run_id"], "settings.json"
    )
    assert json.loads(Path(path).read_text()) == settings


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    code = """
import sys
from rayonale.lineage import tracking
from tests.lineage.conftest import run_stage
def work(run):
    for step in range(2_000):
        run.log_metrics({"loss": 1.0 * step}, step=step)
    return {}
with tracking.Tracker("small", sys.argv[1]) as t:
    run_stage(t, sys.argv[2], "train", {}, {}, work)
"""
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in ("a", "b")
    ]
    assert [process.wait(timeout=240) for process in started] == [0, 0]
    client = _client(str(tmp_path))
    for name in ("a", "b"):
        run = _runs(str(tmp_path))[name]
        history = client.get_metric_history(run.info.run_id, "loss")
        assert [m.step for m in history] == list(range(2_000))


def test_a_killed_run_is_ended_by_the_next_execution(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from rayonale.lineage import tracking
from tests.lineage.conftest import run_stage
with tracking.Tracker("small", sys.argv[1]) as t:
    run_stage(t, "sft", "train", {}, {}, lambda run: os.kill(os.getpid(), signal.SIGKILL))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=240)
    assert done.returncode == -signal.SIGKILL
    assert _runs(str(tmp_path))["sft"].info.status == "RUNNING"
    with tracking.Tracker("small", str(tmp_path)):
        assert _runs(str(tmp_path))["sft"].info.status == "KILLED"


def test_a_server_that_is_not_there_is_told_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{_free_port()}")
    with (
        pytest.raises(ValueError, match=r"MLflow tracking server http.*MLFLOW_TRACKING_URI"),
        tracking.Tracker("small", str(tmp_path)),
    ):
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A real tracking server on loopback."""
    port = _free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    process = subprocess.Popen(command, start_new_session=True, cwd=tmp_path)
    uri = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    try:
        wait_for(lambda: _answers(f"{uri}/health"), seconds=120)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_server_that_goes_away_stops_nothing(
    server: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    before = make_small_recipe(tmp_path)
    assert before["dpo"].manifest["registered_model"]["version"] == 1
    assert "mlflow_missed" not in before["dpo"].manifest
    ref = "models:/small-dpo/1"
    assert tracking.registered_model_folder(ref) == f"{before['dpo'].uri}/model"

    def interrupted(run: tracking.Run) -> dict[str, Any]:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        run.log_metrics({"loss": 0.25}, step=7)
        return {}

    with tracking.Tracker("small", str(tmp_path / "runs")) as t:
        after = run_stage(t, "late", "train", {}, {}, interrupted)
        later = run_stage(t, "later", "train", {}, {}, lambda run: {})
    assert ["loss", 0.25, 7] in after.manifest["mlflow_missed"]["metrics"]
    assert later.manifest["mlflow_run_id"] is None
    assert ["rows_out", 8.0, 0] in later.manifest["mlflow_missed"]["metrics"]


def test_any_number_of_parents_fits_mlflows_limit() -> None:
    parents = [{"role": "stages", "name": f"s{n}", "uri": "u" * 300} for n in range(100)]
    tags = record._listed("rayonale.parents", parents)
    assert len(tags) > 1 and all(len(value) <= record.TAG_LIMIT for value in tags.values())
    assert record.listed("rayonale.parents", tags) == parents
    assert record.listed("rayonale.parents", record._listed("rayonale.parents", [])) == []
