"""Ray's own `serve deploy` takes our deployment file, and takes it again with a change."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.cluster.conftest import ROOT, Head, started
from tests.serve.service import free_port, wait_for

from rayonale.serve import keys

ENGINE = {"max_model_len": 512, "max_num_seqs": 16, "threads": 1, "kv_cache_gib": 0.25}


def _documented() -> dict[str, str]:
    """The switches that docs/serving.md gives `ray start`, and the folder `serve` on the path."""
    text = (ROOT / "docs/serving.md").read_text()
    lines = re.findall(r"^    export (RAY_SERVE_.*)$", text, re.MULTILINE)
    switches = dict(each.split("=") for line in lines for each in line.split())
    assert "RAY_SERVE_USE_GRPC_BY_DEFAULT" in switches
    return {**switches, "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"}


def _serve(head: Head, *words: str) -> str:
    command = [str(Path(sys.executable).parent / "serve"), *words, "--address", head.dashboard]
    done = subprocess.run(
        command,
        env=head.environment,
        cwd=head.folder,  # the repository is found by PYTHONPATH alone
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4_000:]
    return done.stdout


def _states(head: Head) -> dict[str, str]:
    found = yaml.safe_load(_serve(head, "status"))["applications"]
    states = {name: str(each["status"]) for name, each in found.items()}
    assert "DEPLOY_FAILED" not in states.values(), found
    return states


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_serve_deploy_takes_the_file_and_its_change(tmp_path: Path) -> None:
    key, port = keys.add(tmp_path / "keys.txt", "tests"), free_port()
    args: dict[str, Any] = {
        "policies": [{"name": "tinyworld", "model": "tinyworld", "engine": ENGINE}],
        "access": {"keys_file": str(tmp_path / "keys.txt")},
    }
    app = {"name": "a", "import_path": "serve.policies:app", "route_prefix": "/", "args": args}
    value = {"http_options": {"host": "127.0.0.1", "port": port}, "applications": [app]}
    file, found, over = tmp_path / "serve.yaml", list[int | str](), threading.Event()
    http = httpx.Client(
        base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {key}"}, timeout=120
    )

    def ask(n: int) -> httpx.Response:
        said = [{"role": "user", "content": "Name two birds."}]
        body = {"model": "tinyworld", "messages": said, "max_tokens": 16, "n": n}
        return http.post("/v1/chat/completions", json=body)

    def load() -> None:
        while not over.is_set():
            try:
                found.append(ask(1).status_code)
            except httpx.HTTPError as error:
                found.append(type(error).__name__)
            time.sleep(0.05)

    with started(_documented()) as head:
        file.write_text(yaml.safe_dump(value))
        _serve(head, "deploy", str(file))
        wait_for(lambda: _states(head) == {"a": "RUNNING"}, 240, "the application runs")
        answer = ask(3)
        assert answer.status_code == 200, answer.text
        assert [each["index"] for each in answer.json()["choices"]] == [0, 1, 2]
        assert all(each["message"]["content"] for each in answer.json()["choices"])
        assert httpx.get(f"{http.base_url}/v1/models").status_code == 401
        args["limits"] = {"samples": 2}
        file.write_text(yaml.safe_dump(value))
        client = threading.Thread(target=load)
        client.start()
        try:
            _serve(head, "deploy", str(file))
            wait_for(lambda: ask(3).status_code == 400, 240, "the change is there")
            wait_for(lambda: _states(head) == {"a": "RUNNING"}, 60, "the application runs")
        finally:
            over.set()
            client.join()
        assert set(found) == {200}  # nobody noticed
        assert ask(2).status_code == 200
        assert ask(3).json()["error"]["code"] == "too_many_samples"
