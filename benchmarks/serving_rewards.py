"""Rewards by the service against offline scoring, with the same engine on the same cores."""

from __future__ import annotations

import json
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

import serving
from rayonale import models
from rayonale.generate.rewards import RewardReplica, source_of
from rayonale.generate.settings import EngineOptions, Request, Sampling, Weights
from rayonale.serve import keys

COUNT, CHUNK, CLIENTS = 4_096, 64, 8


def conversations() -> list[list[dict[str, str]]]:
    """The same ones for both sides, of several lengths."""
    return [
        [
            {"role": "user", "content": f"Name {number % 7 + 1} birds."},
            {"role": "assistant", "content": ", ".join(["robin", "wren"] * (number % 29 + 1))},
        ]
        for number in range(COUNT)
    ]


def measure(model: str, port: int) -> list[dict[str, Any]]:
    """Offline, then served; rewards are compared."""
    said = conversations()
    source, _ = source_of(models.resolve(model))
    weights = Weights(source, "")
    options = EngineOptions(max_model_len=1_024, max_num_seqs=64, threads=1, kv_cache_gib=1)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        key = keys.add(work / "keys.txt", "load")
        with serving.server(serving.ours(work, model, port, model), work, port, key) as started:
            service = psutil.Process(started.process)
            before, mine = serving.cpu_seconds(service), time.process_time()
            seconds, served = _served(said, port, key)
            taken = serving.cpu_ms(before, serving.cpu_seconds(service), COUNT)
            taken |= {"load": round((time.process_time() - mine) * 1_000 / COUNT, 2)}
    replica = RewardReplica(weights, options)
    requests = [Request(each[:-1], response=each[-1]["content"]) for each in said]  # type: ignore[arg-type]
    replica.generate(weights, requests[:512], Sampling())
    begun, mine = time.perf_counter(), time.process_time()
    offline = [each.reward for each in replica.generate(weights, requests, Sampling())]
    alone, alone_cpu = time.perf_counter() - begun, time.process_time() - mine
    apart = max(abs(a - (b or 0.0)) for a, b in zip(served, offline, strict=True))
    found = {
        "side": "rewards",
        "conversations": COUNT,
        "offline_per_s": round(COUNT / alone),
        "served_per_s": round(COUNT / seconds),
        "share": round(alone / seconds, 2),
        "largest_difference": apart,
        "cpu_ms_served": taken,  # of a conversation; warming up counts too
        "cpu_ms_offline": round(alone_cpu * 1_000 / COUNT, 2),
    }
    print(json.dumps(found))
    return [found]


def _served(said: list[Any], port: int, key: str) -> tuple[float, list[float]]:
    def ask(chunk: list[Any]) -> list[float]:
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/rewards",
            json.dumps({"conversations": chunk}).encode(),
            {"authorization": f"Bearer {key}", "content-type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=120) as answer:
            return list(json.load(answer)["rewards"])

    chunks = [said[i : i + CHUNK] for i in range(0, len(said), CHUNK)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(ask, chunks[:8]))  # warm up
        begun = time.perf_counter()
        found = [reward for part in pool.map(ask, chunks) for reward in part]
        return time.perf_counter() - begun, found
