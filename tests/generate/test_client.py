"""Deaths beyond the allowed number, and waiting that ends with a reason."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import ray

from rayonale.generate.client import Client, EngineDead, EngineHung
from rayonale.generate.engine import EngineFailed
from rayonale.generate.pool import _wait
from rayonale.generate.settings import (
    Completion,
    EngineOptions,
    Request,
    Sampling,
    Weights,
)

WEIGHTS = Weights("somewhere", "abc")


@ray.remote
class Actor:
    """Stands where a replica does; these tests are about processes, not about text."""

    def __init__(self) -> None:
        self.broken = False

    def ready(self) -> int:
        return os.getpid()

    def generate(self, weights: Any, requests: list[Request], *_: Any) -> list[Completion]:
        text = "".join(request.messages[0]["content"] for request in requests)
        time.sleep(0.5)  # so that batches overlap
        if "die" in text:
            os._exit(70)
        if "hang" in text:
            time.sleep(60)
        if "break" in text or self.broken:
            self.broken = True
            raise EngineFailed("the kernel said no")
        return [Completion(text=request.messages[0]["content"]) for request in requests]


def asked(text: str) -> list[Request]:
    return [Request([{"role": "user", "content": text}])]


def client(max_restarts: int, **options: Any) -> Client:
    actor = Actor.options(num_cpus=0, max_restarts=max_restarts, max_concurrency=8).remote()
    return Client(WEIGHTS, (actor,), EngineOptions(max_restarts=max_restarts, **options))


def test_dead_for_good_is_an_error(ray_session: None) -> None:
    with pytest.raises(EngineDead, match="max_restarts = 1"):
        client(max_restarts=1).generate([asked("a"), asked("die")], Sampling())


@pytest.mark.parametrize("fault", ["die", "break"])
def test_the_row_to_blame_is_found(ray_session: None, fault: str) -> None:
    rows = [asked("a"), asked(fault), asked("b")]
    found = client(max_restarts=4).generate(rows, Sampling())
    assert [each[0].text for each in found] == ["a", "", "b"]
    assert [each[0].error for each in found] == [None, "engine_killed", None]


def test_batches_that_died_with_a_poisonous_one_are_answered(ray_session: None) -> None:
    shared = client(max_restarts=4)
    batches = [[asked(f"{name}{i}") for i in range(3)] for name in ("a", "b", "c")]
    batches[1][2] = asked("slow, then die")
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda rows: shared.generate(rows, Sampling()), batches))
    texts = [[each[0].text for each in rows] for rows in found]
    assert texts == [["a0", "a1", "a2"], ["b0", "b1", ""], ["c0", "c1", "c2"]]
    assert found[1][2][0].error == "engine_killed"


def test_a_hang_is_an_error(ray_session: None) -> None:
    with pytest.raises(EngineHung, match="call_timeout_s = 1"):
        client(max_restarts=0, call_timeout_s=1).generate([asked("hang")], Sampling())


def test_resources_that_never_come_are_told(ray_session: None) -> None:
    actor = Actor.options(num_gpus=8).remote()
    asked_for = {"num_cpus": 1, "num_gpus": 8}
    with pytest.raises(TimeoutError, match=r"num_gpus': 8.*cluster has \{'CPU': 2"):
        _wait((actor,), EngineOptions(start_timeout_s=0.1), asked_for)
    ray.kill(actor)


def test_batches_that_died_by_accident_are_tried_again_together(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = client(max_restarts=1)
    lane = shared._lanes[0]
    monkeypatch.setattr(shared, "_look_into", lambda *_: pytest.fail("tried one at a time"))

    def kill() -> None:
        while lane.calls < 4:
            time.sleep(0.01)
        ray.kill(lane.replica, no_restart=False)

    ray.get(lane.replica.ready.remote())
    with ThreadPoolExecutor(5) as threads:
        killer = threads.submit(kill)
        batches = [[asked(f"slow {i}")] for i in range(4)]
        found = list(threads.map(lambda rows: shared.generate(rows, Sampling()), batches))
        killer.result()
    assert [rows[0][0].text for rows in found] == [f"slow {i}" for i in range(4)]
