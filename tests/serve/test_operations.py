"""What operations expect: an alias that moves, a process that dies, a redeploy, all under load."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serve import browser, models
from tests.serve.service import Called, served, wait_for

from rayonale.serve import haproxy, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ENGINE = {"max_model_len": 512, "max_num_seqs": 32, "threads": 1, "kv_cache_gib": 0.25}
NAME = "served-policy"

# HAProxy itself, and Ray's process that looks after it; or what is in its place.
BEHIND_HAPROXY = os.environ.get(haproxy.SWITCH, "1") == "1"
PROXIES = ["/haproxy.cfg", "ray::HAProxyManager"] if BEHIND_HAPROXY else ["ray::ProxyActor"]


class Registry:
    """An MLflow registry of one model, in an SQLite file."""

    def __init__(self, folder: Path) -> None:
        from rayonale.lineage import tracking

        self.uri = f"sqlite:///{folder}/mlflow.db"
        self._client = tracking.client_of(self.uri)
        self._client.create_registered_model(NAME)

    def add(self, folder: Path) -> int:
        """Register a version."""
        tags = {"rayonale.uri": str(folder)}
        return int(self._client.create_model_version(NAME, str(folder), tags=tags).version)

    def promote(self, version: int, alias: str = "champion") -> None:
        """Let the alias name a version."""
        self._client.set_registered_model_alias(NAME, alias, str(version))


@pytest.fixture(scope="module")
def registry(tinyworld_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Version 1 is the embedded model, 2 says other things, 3 is of another architecture."""
    folder = tmp_path_factory.mktemp("registry")
    found = Registry(folder)
    found.add(tinyworld_model)
    found.add(models.make_policy(tinyworld_model, folder / "other", 1.1))
    odd = Path(shutil.copytree(tinyworld_model, folder / "odd"))
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    found.add(odd)
    found.promote(1)
    found.promote(2, "challenger")
    return found


def applications(registry: Registry, **policy: Any) -> list[dict[str, Any]]:
    """One policy that follows the alias."""
    followed = {
        "name": "tinyworld",
        "model": f"models:/{NAME}@champion",
        "engine": ENGINE,
        "follow_s": 1,
        **policy,
    }
    args = {"policies": [followed], "registry": registry.uri}
    return [
        {
            "name": "policies",
            "import_path": "serve.policies:app",
            "route_prefix": "/",
            "args": args,
        }
    ]


@pytest.fixture(scope="module")
def service(
    ray_session: None, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Called]:
    """The policy with a challenger that gets a third of the requests."""
    challenger = {"model": f"models:/{NAME}@challenger", "share": 0.3}
    with served(
        tmp_path_factory.mktemp("operated"), applications(registry, challenger=challenger)
    ) as found:
        yield found


@contextmanager
def load(
    service: Called, stream: bool = False, clients: int = 4, user: str | None = "steady"
) -> Iterator[Counter[str]]:
    """Requests one after the other by each client; counts what they got.

    The challenger has no share in the user `steady`: they go to the policy that is killed. It has
    one in those without a user.
    """
    found: Counter[str] = Counter()
    over = threading.Event()
    body = {"model": "tinyworld", "messages": [{"role": "user", "content": "Name two birds."}]}
    body |= {"max_tokens": 64, "stream": stream} | ({"user": user} if user else {})

    def client() -> None:
        with httpx.Client(headers=service.http.headers, timeout=180) as http:
            while not over.is_set():
                try:
                    answer = http.post(f"{service.url}/v1/chat/completions", json=body)
                    what = str(answer.status_code)
                    if stream and "data: [DONE]" not in answer.text:
                        what = "error event" if '"error"' in answer.text else "broken"
                except httpx.HTTPError as error:
                    what = type(error).__name__
                    time.sleep(0.2)
                found[what] += 1

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        over.set()
        for thread in threads:
            thread.join()


def version(service: Called) -> str:
    """Who answers a user that the challenger has no share in."""
    return str(service.chat(user="steady", max_tokens=4)["system_fingerprint"]).split(":")[0]


def test_a_challenger_gets_its_share_and_a_user_one_model(service: Called) -> None:
    told = [
        service.chat(user=f"u{i % 20}", max_tokens=2)["system_fingerprint"].split(":")[0]
        for i in range(60)
    ]
    assert told[:20] == told[20:40] == told[40:]
    assert 1 <= told[:20].count(f"{NAME}/2") <= 12
    listed = {each["id"]: each["version"] for each in service.http.get("/v1/models").json()["data"]}
    assert listed == {"tinyworld": f"{NAME}/1", "tinyworld@challenger": f"{NAME}/2"}
    direct = service.chat(model="tinyworld@challenger", max_tokens=2)
    assert direct["system_fingerprint"].startswith(f"{NAME}/2:")


def test_an_alias_is_followed_there_and_back_without_downtime(
    service: Called, registry: Registry
) -> None:
    users = [f"u{i}" for i in range(20)]
    mine = next(u for u in users if f"{NAME}/1" in service.chat(user=u)["system_fingerprint"])

    def now() -> tuple[str, str]:
        answer = service.chat(user=mine, temperature=0, max_tokens=16)
        text = answer["choices"][0]["message"]["content"]
        return answer["system_fingerprint"].split(":")[0], text

    before = now()
    with load(service) as found:
        registry.promote(2)
        wait_for(lambda: now()[0] == f"{NAME}/2", 30, "version 2 is served")
        after = now()
        registry.promote(1)
        wait_for(lambda: now()[0] == f"{NAME}/1", 30, "version 1 is served again")
    assert set(found) == {"200"}
    assert after[1] != before[1] and now() == before
    registry.promote(3)  # it does not fit the engine: the old one is served on, and that is told
    try:
        wait_for(
            lambda: (
                "architecture" in str(service.http.get("/v1/models/tinyworld").json()["held_back"])
            ),
            30,
            "the version is held back",
        )
        assert now() == before
    finally:
        registry.promote(1)


@pytest.mark.parametrize("stream", [False, True])
def test_a_replica_that_is_killed_is_replaced(service: Called, stream: bool) -> None:
    from ray import serve

    handle = serve.get_deployment_handle("tinyworld", app_name="policies")
    process = handle.process.remote().result()
    with load(service, stream) as found:
        time.sleep(2)
        os.kill(process, signal.SIGKILL)
        begun = time.monotonic()
        wait_for(lambda: handle.process.remote().result() != process, 240, "another replica")
        recovery = time.monotonic() - begun
        time.sleep(2)
    print(f"\nkilled, stream={stream}: {dict(found)}, recovery {recovery:.1f} s")
    assert set(found) <= {"200", "error event"}  # nothing else than streams that had begun
    assert found["200"] > 4 and found["error event"] <= 4


@pytest.mark.parametrize("text", PROXIES)
def test_a_proxy_that_is_killed_is_replaced(service: Called, text: str) -> None:
    import psutil

    def alive() -> dict[int, psutil.Process]:
        found = {}
        for each in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):  # it has just ended
                if text in " ".join(each.cmdline()):
                    found[each.pid] = each
        return found

    killed = alive()
    assert killed

    def replaced() -> bool:
        try:
            answers = service.http.get("/health").status_code == 200
        except httpx.HTTPError:
            return False
        return answers and bool(alive().keys() - killed.keys())

    with load(service) as found:
        time.sleep(2)
        for process in killed.values():
            process.kill()
        begun = time.monotonic()
        wait_for(replaced, 120, "another proxy")
        recovery = time.monotonic() - begun
        time.sleep(2)
    print(f"\n{text} killed: {dict(found)}, recovery {recovery:.1f} s")
    # Clients ask again after a 503, and where nobody listens; they give up after a 404.
    assert set(found) <= {"200", "503", "ConnectError", "ReadError", "RemoteProtocolError"}
    assert found["ReadError"] + found["RemoteProtocolError"] <= 4  # those that were under way


@pytest.mark.parametrize("stream", [False, True, True])
def test_a_redeploy_loses_no_request(service: Called, registry: Registry, stream: bool) -> None:
    """It changes the engine and takes the challenger away, or brings it back."""
    import yaml

    file = service.folder / "serve.yaml"
    value = yaml.safe_load(file.read_text())
    (policy,) = value["applications"][0]["args"]["policies"]
    policy["engine"]["max_num_seqs"] -= 8
    if not policy.pop("challenger", None):
        policy["challenger"] = {"model": f"models:/{NAME}@challenger", "share": 0.3}
    file.write_text(yaml.safe_dump(value))
    with load(service, stream, user=None) as found:
        begun = time.monotonic()
        running.start(str(file))
        seconds = time.monotonic() - begun
        time.sleep(12)  # until the processes of before are gone
    print(f"\nredeploy: {dict(found)} in {seconds:.1f} s")
    assert set(found) == {"200"}
    assert version(service) == f"{NAME}/1"


def test_without_a_judge_the_page_does_not_offer_one(service: Called) -> None:
    with browser.opened() as page:
        page.go(service.url)
        page.type("key", service.key)
        page.run("document.getElementById('key').dispatchEvent(new Event('change'))")
        loaded = "return document.querySelectorAll('#model0 option').length"
        wait_for(lambda: page.run(loaded), 20, "models")
        assert page.run("return $('judging').hidden && $('judging').offsetHeight === 0")


def test_metrics_are_exported(service: Called) -> None:
    import ray

    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"

    def exported() -> bool:
        try:
            text = httpx.get(address, timeout=5).text
        except httpx.HTTPError:
            return False
        return all(
            f"rayonale_serve_{name}" in text
            for name in ("requests", "latency_seconds", "first_token_seconds", "tokens")
        )

    wait_for(exported, 60, "metrics at Ray's port")
