"""A submitted job trains, another promotes, and the running service picks the model up."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.cluster.conftest import Head

from rayonale.serve import keys

NAME = "rdpo-tinyworld-sft"
SHRUNK = ("stages.world.size=60", "--stage", "sft")


def _submitted(head: Head, *command: str, runs: Path) -> str:
    options = (
        "--runtime-env-json",
        f'{{"env_vars": {{"MLFLOW_TRACKING_URI": "sqlite:///{runs}/mlflow.db"}}}}',
    )
    done = head.submit(*command, options=options)
    assert done.returncode == 0, done.stdout[-4_000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1_500)
def test_what_is_trained_and_promoted_is_served(head: Head, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    train = ("python", "jobs/run_recipe.py", "configs/rdpo/tinyworld.yaml", f"runs={runs}")
    _submitted(head, *train, *SHRUNK, runs=runs)
    promote = ("python", "jobs/promote_model.py", f"models:/{NAME}", "--runs", str(runs))
    assert "champion: version 1 (before: none)" in _submitted(head, *promote, runs=runs)
    key = keys.add(tmp_path / "keys.txt", "tests")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    engine = {"max_model_len": 512, "max_num_seqs": 16, "threads": 1, "kv_cache_gib": 0.25}
    model = f"models:/{NAME}@champion"
    args: dict[str, Any] = {
        "policies": [{"name": "sft", "model": model, "engine": engine, "follow_s": 1}],
        "registry": f"sqlite:///{runs}/mlflow.db",
        "access": {"keys_file": str(tmp_path / "keys.txt")},
    }
    app = {"name": "a", "import_path": "serve.policies:app", "route_prefix": "/", "args": args}
    value = {"http_options": {"host": "127.0.0.1", "port": port}, "applications": [app]}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(value))
    _submitted(head, "python", "jobs/serve_models.py", str(tmp_path / "serve.yaml"), runs=runs)
    http = httpx.Client(
        base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {key}"}, timeout=60
    )

    def served() -> str:
        (model,) = http.get("/v1/models").json()["data"]
        return str(model["version"])

    assert served() == f"{NAME}/1"
    _submitted(head, *train, *SHRUNK, "stages.sft.learning_rate=1.0e-4", runs=runs)
    assert served() == f"{NAME}/1"  # trained and registered is not yet promoted
    assert "version 2 (before: 1)" in _submitted(head, *promote, runs=runs)
    from tests.serve.service import wait_for

    wait_for(lambda: served() == f"{NAME}/2", 60, "the promoted version is served")
    asked = {"model": "sft", "messages": [{"role": "user", "content": "Name two birds."}]}
    answer = http.post("/v1/chat/completions", json=asked).json()
    assert answer["system_fingerprint"].startswith(f"{NAME}/2:")
