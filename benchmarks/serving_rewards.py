"""Rewards by the service against offline scoring, both by the platform's own engines.

Each side has its engine in an actor with the same options, threads included: an engine in this
process would take all cores whatever `threads` says.
"""

from __future__ import annotations

import json
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import psutil

import serving
from rayonale import models
from rayonale.generate.pool import Engines
from rayonale.generate.rewards import source_of
from rayonale.generate.settings import EngineOptions, Request, Sampling
from rayonale.serve import keys

COUNT, CHUNK, CLIENTS = 4_096, 64, 8
WARM_UP = CHUNK * CLIENTS
PASSES = 3  # over all conversations; the one in the middle counts


def conversations() -> list[list[dict[str, str]]]:
    """The same ones for both sides, of several lengths."""
    return [
        [
            {"role": "user", "content": f"Name {number % 7 + 1} birds."},
            {"role": "assistant", "content": ", ".join(["robin", "wren"] * (number % 29 + 1))},
        ]
        for number in range(COUNT)
    ]


def measure(model: str, port: int, threads: list[int]) -> list[dict[str, Any]]:
    """Served and offline with each number of an engine's threads; rewards are compared."""
    found = []
    for number in threads:
        options = {"max_model_len": 1_024, "max_num_seqs": 64, "kv_cache_gib": 1}
        found.append(_measure(model, port, EngineOptions(**options, threads=number)))
        print(json.dumps(found[-1]), flush=True)
    return found


def _measure(model: str, port: int, options: EngineOptions) -> dict[str, Any]:
    said = conversations()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        key = keys.add(work / "keys.txt", "load")
        command = serving.ours(work, model, port, model, options.threads or 1)
        with serving.server(command, work, port, key) as started:
            service = psutil.Process(started.process)
            before, mine = serving.cpu_seconds(service), time.process_time()
            seconds, served = _served(said, port, key)
            taken = serving.cpu_ms(before, serving.cpu_seconds(service), COUNT * PASSES + WARM_UP)
            taken |= {"load": round((time.process_time() - mine) * 1_000 / COUNT / PASSES, 2)}
    alone, offline = _offline(said, model, options)
    return {
        "side": "rewards",
        "threads": options.threads,
        "conversations": COUNT,
        "offline_per_s": round(COUNT / alone),
        "served_per_s": round(COUNT / seconds),
        "share": round(alone / seconds, 2),
        "largest_difference": max(abs(a - b) for a, b in zip(served, offline, strict=True)),
        "cpu_ms_served": taken,  # of a conversation
    }


def _offline(said: list[Any], model: str, options: EngineOptions) -> tuple[float, list[float]]:
    requests = [Request(each[:-1], response=each[-1]["content"]) for each in said]
    with Engines() as engines:
        pool = engines.get(source_of(models.resolve(model))[0], options, "pooling")
        pool.generate(requests[:WARM_UP], Sampling())
        passes = []
        for _ in range(PASSES):
            begun = time.perf_counter()
            found = [each.reward or 0.0 for each in pool.generate(requests, Sampling())]
            passes.append(time.perf_counter() - begun)
        return median(passes), found


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
        list(pool.map(ask, chunks[:CLIENTS]))  # warm up
        passes = []
        for _ in range(PASSES):
            begun = time.perf_counter()
            found = [reward for part in pool.map(ask, chunks) for reward in part]
            passes.append(time.perf_counter() - begun)
        return median(passes), found
