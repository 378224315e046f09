"""A service that is killed, one that is told to stop, and one that cannot start."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.conftest import REPOSITORY
from tests.serve.service import free_port, wait_for

from rayonale.serve import keys

ENGINE = {"max_model_len": 512, "max_num_seqs": 8, "threads": 1, "kv_cache_gib": 0.1}


def deployment(folder: Path, model: Path) -> tuple[list[str], int, str]:
    """Command of a service, its port, and a key to it."""
    key, port = keys.add(folder / "keys.txt", "tests"), free_port()
    args = {
        "policies": [{"name": "policy", "model": str(model), "engine": ENGINE}],
        "access": {"keys_file": str(folder / "keys.txt")},
    }
    application = {"name": "policies", "import_path": "serve.policies:app", "args": args}
    value: dict[str, Any] = {"http_options": {"port": port}, "applications": [application]}
    (folder / "serve.yaml").write_text(yaml.safe_dump(value))
    return [sys.executable, "jobs/serve_models.py", str(folder / "serve.yaml")], port, key


def long_answer(port: int, key: str) -> httpx.Response:
    """An answer that takes some seconds."""
    body = {
        "model": "policy", "messages": [{"role": "user", "content": "Name two birds."}],
        "max_tokens": 480, "ignore_eos": True, "n": 8,
    }  # fmt: skip
    headers = {"authorization": f"Bearer {key}"}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    return httpx.post(url, json=body, headers=headers, timeout=120)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_service_can_be_started_again_at_its_port(
    tinyworld_model: Path, tmp_path: Path
) -> None:
    command, port, key = deployment(tmp_path, tinyworld_model)

    def answers() -> bool:
        try:
            asked = httpx.get(
                f"http://127.0.0.1:{port}/v1/models", headers={"authorization": f"Bearer {key}"}
            )
        except httpx.HTTPError:
            return False
        return asked.status_code == 200

    first = subprocess.Popen(command, cwd=REPOSITORY)
    try:
        wait_for(answers, 240, "the first service answers")
        first.send_signal(signal.SIGKILL)
        first.wait(30)
        wait_for(lambda: not answers(), 60, "its Ray session has ended")
        second = subprocess.Popen(command, cwd=REPOSITORY)
        try:
            wait_for(lambda: second.poll() is not None or answers(), 240, "the second answers")
            assert second.poll() is None
            with ThreadPoolExecutor() as pool:
                asked = pool.submit(long_answer, port, key)
                time.sleep(1)
                second.send_signal(signal.SIGTERM)
                assert len(asked.result().json()["choices"]) == 8  # what is under way is finished
            assert second.wait(120) == 0
            assert not answers()
        finally:
            second.kill()
    finally:
        first.kill()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_service_that_cannot_start_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    command, port, _ = deployment(tmp_path, tmp_path / "empty")
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode not in (0, None)
    assert "error: " in done.stderr
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/health")
