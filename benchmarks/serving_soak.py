"""Our service under mixed load for a long time: what fails, and what grows.

    python benchmarks/serving.py --soak 600

Clients send one request after the other: whole and streamed answers, goals, the best of several by
reward, judgements, rewards, requests that are given up, and bad ones. A line a minute tells what
they got, and the memory and open files of each of the service's processes. After the end nothing
may be left in the engine; memory and open files of the last quarter are compared with the first's.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
import shutil
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import yaml

import serving
from rayonale import models, prompts
from rayonale.enrich import goal_prompt
from rayonale.generate.rewards import source_of
from rayonale.serve import keys

CLIENTS = 16
CHAT, REWARDS, JUDGE = "/v1/chat/completions", "/v1/rewards", "/v1/judge"
_WARM_UP_S = 15  # before it counts: caches fill, connections open
_SAMPLE_S = 2
_REST_S = 20  # within which the engine has to be empty after the last request
# What may come of noise: an allocator's arenas, a connection.
_GROWTH_SHARE, _GROWTH_MIB, _GROWTH_FILES = 0.05, 20, 8

Outcome = tuple[str, bool]  # what came of a request, and whether it had to be that


@dataclass
class Found:
    """What is counted and sampled.

    Attributes:
        outcomes: of the requests since the last line, by status.
        samples: for each process its (seconds, MiB, open files).
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)
    all_unexpected: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    samples: dict[str, list[tuple[float, float, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )


def soak(model: str, oracle: str | None, seconds: float, port: int) -> list[dict[str, Any]]:
    """Serve, load, print; the last line is the verdict.

    Args:
        oracle: reward model; None draws a head for the policy.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "token").write_text(secrets.token_hex(32))
        # The service's Ray session and this process, which asks its replica at the end.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(work / "token")}
        key = keys.add(work / "keys.txt", "load")
        command = deployment(work, models.resolve(model), oracle, port)
        with serving.server(command, work, port, key) as started:
            lines = asyncio.run(_loaded(f"http://127.0.0.1:{port}", key, started.process, seconds))
            rest = at_rest(started.process)
            print(json.dumps(rest), flush=True)
    last = verdict(lines.pop(), rest)
    print(json.dumps(last), flush=True)
    return [*lines, rest, last]


def deployment(work: Path, model: str, oracle: str | None, port: int) -> list[str]:
    """Command of a policy that takes goals and judges, and an oracle of another application."""
    policy = Path(shutil.copytree(model, work / "policy"))
    if not (policy / goal_prompt.FILE).exists():
        text = prompts.source(goal_prompt.OVERALL)
        told = goal_prompt.GoalPrompt(
            template=goal_prompt.OVERALL, text=text, place="system", low=1, high=10
        )
        goal_prompt.save(told, str(policy))
    if oracle is None:
        oracle = str(_drawn_oracle(model, work / "oracle"))
    source_of(models.resolve(oracle))  # it gives rewards
    engine = {"max_model_len": serving.MAX_LEN, "max_num_seqs": serving.MAX_SEQS, "threads": 1}
    engine |= {"kv_cache_gib": 0.5}
    access = {"keys_file": str(work / "keys.txt")}
    judge = {"pointwise": "tinyworld/judge_pointwise", "pairwise": "tinyworld/judge_pairwise"}
    named = {"name": "model", "model": str(policy), "engine": engine, "judge": judge}
    args = {
        "policies": {"policies": [named], "oracle": {"application": "oracle"}, "access": access},
        "oracle": {"oracle": {"model": oracle, "engine": engine}, "access": access},
    }
    applications = [
        {"name": name, "import_path": f"serve.{name}:app", "route_prefix": at, "args": args[name]}
        for name, at in (("policies", "/"), ("oracle", "/oracle"))
    ]
    value = {"http_options": {"host": "127.0.0.1", "port": port}, "applications": applications}
    (work / "serve.yaml").write_text(yaml.safe_dump(value))
    return serving.serve_command(work)


def _drawn_oracle(model: str, folder: Path) -> Path:
    """A reward model on the policy's weights: its rewards mean nothing and cost as much."""
    from rayonale.train import classifier, reward_head
    from rayonale.train.policy import load_model
    from rayonale.train.settings import RewardHeadSettings

    shutil.copytree(model, folder)
    head = reward_head.make(load_model(model, "float32", 2_048), RewardHeadSettings(), 0, "")
    reward_head.save(head.weight.detach(), folder)
    classifier.write(folder, head.weight.detach(), folder / classifier.FOLDER)
    return folder


class Load:
    """Sends requests of every kind, and tells what came of each."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http, self._url = http, url
        self.kinds: dict[str, tuple[int, Callable[[int], Awaitable[Outcome]]]] = {
            "whole": (30, self._whole),
            "streamed": (30, self._streamed),
            "goal": (8, self._goal),
            "best_of": (4, self._best_of),
            "judged": (4, self._judged),
            "rewards": (8, self._rewards),
            "given up": (8, self._given_up),
            "bad": (8, self._bad),
        }

    async def one(self, number: int) -> tuple[str, Outcome]:
        """The request of that number: its kind, and what came of it."""
        names = list(self.kinds)
        (name,) = random.choices(names, [self.kinds[each][0] for each in names])
        try:
            return name, await self.kinds[name][1](number)
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
            return name, (type(error).__name__, False)

    def _chat(self, number: int, **more: Any) -> dict[str, Any]:
        said = f"Name {number % 89} birds, and say why. " * (1 + number % 3)
        messages = [{"role": "user", "content": said}]
        return {"model": "model", "messages": messages, "max_tokens": 8 + number % 120, **more}

    async def _ask(self, path: str, body: Any, wanted: int = 200) -> Outcome:
        async with self._http.post(f"{self._url}{path}", json=body) as answer:
            await answer.read()
            return str(answer.status), answer.status == wanted

    async def _whole(self, number: int) -> Outcome:
        return await self._ask(CHAT, self._chat(number))

    async def _goal(self, number: int) -> Outcome:
        return await self._ask(CHAT, self._chat(number, goal=1 + number % 10))

    async def _best_of(self, number: int) -> Outcome:
        return await self._ask(CHAT, self._chat(number, best_of=4))

    async def _judged(self, number: int) -> Outcome:
        body = self._chat(number, responses=["robin, wren", "oak"])
        return await self._ask(JUDGE, body)

    async def _rewards(self, number: int) -> Outcome:
        said = [{"role": "user", "content": "Name two birds."}]
        answers = ["robin, " * (1 + (number + i) % 40) for i in range(1 + number % 16)]
        conversations = [[*said, {"role": "assistant", "content": text}] for text in answers]
        return await self._ask(REWARDS, {"conversations": conversations})

    async def _streamed(self, number: int) -> Outcome:
        body = self._chat(number, stream=True, stream_options={"include_usage": True})
        async with self._http.post(f"{self._url}{CHAT}", json=body) as answer:
            lines = [line async for line in answer.content if line.strip()]
            whole = lines[-1].strip() == b"data: [DONE]" and b'"usage":{' in lines[-2]
            return str(answer.status) if whole else "broken stream", whole

    async def _given_up(self, number: int) -> Outcome:
        """A client that goes away: in the middle of a stream, or of a whole answer."""
        body = self._chat(number, stream=number % 2 == 0) | {"max_tokens": 800, "ignore_eos": True}
        with suppress(TimeoutError):
            async with (
                asyncio.timeout(None if body["stream"] else 0.2),
                self._http.post(f"{self._url}{CHAT}", json=body) as answer,
            ):
                if answer.status != 200:
                    return str(answer.status), False
                await answer.content.readline()
                answer.close()
        return "given up", True

    async def _bad(self, number: int) -> Outcome:
        good = self._chat(number)
        user = good["messages"]
        path, body, wanted = [
            (CHAT, good | {"unknown": 1}, 400),
            (CHAT, good | {"temperature": 9}, 400),
            (CHAT, good | {"model": "other"}, 404),
            (CHAT, good | {"max_tokens": 10**9}, 400),
            (CHAT, good | {"messages": []}, 400),
            (CHAT, good | {"goal": 99}, 400),
            (CHAT, good | {"stream": True, "messages": [user[0] | {"content": "x " * 3_000}]}, 400),
            (REWARDS, {"messages": user * 2}, 400),
            (JUDGE, good | {"responses": []}, 400),
            ("/v1/other", good, 404),
        ][number % 10]
        return await self._ask(path, body, wanted)


async def _loaded(url: str, key: str, process: int, seconds: float) -> list[Any]:
    """Lines, one a minute; then what was found."""
    found, lines, number = Found(), list[Any](), 0
    headers, limit = {"authorization": f"Bearer {key}"}, aiohttp.ClientTimeout(total=180)
    begun = time.monotonic()
    end = begun + _WARM_UP_S + seconds
    async with aiohttp.ClientSession(
        headers=headers, timeout=limit, connector=aiohttp.TCPConnector(limit=CLIENTS)
    ) as http:
        load = Load(http, url)

        async def client() -> None:
            nonlocal number
            while time.monotonic() < end:
                number += 1
                kind, (outcome, expected) = await load.one(number)
                found.requests += 1
                found.outcomes[outcome] += 1
                found.kinds[kind] += 1
                if not expected:
                    found.unexpected[f"{kind}: {outcome}"] += 1
                    found.all_unexpected[f"{kind}: {outcome}"] += 1

        clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
        await asyncio.sleep(_WARM_UP_S)
        found.outcomes.clear()
        begun = told = time.monotonic()
        while (now := time.monotonic()) < end:
            seen = sampled(process)
            for name, (mib, files) in seen.items():
                found.samples[name].append((now - begun, mib, files))
            if now - told >= 60 or end - now <= _SAMPLE_S:
                lines.append(_line(found, now - begun, now - told, seen))
                told = now
            await asyncio.sleep(min(_SAMPLE_S, max(end - time.monotonic(), 0)))
        await asyncio.gather(*clients)
    return [*lines, found]


def _line(
    found: Found, at: float, seconds: float, seen: dict[str, tuple[float, int]]
) -> dict[str, Any]:
    line = {
        "minute": round(at / 60, 1),
        "requests": found.outcomes.total(),
        "per_s": round(found.outcomes.total() / seconds, 1),
        "outcomes": dict(found.outcomes.most_common()),
        "unexpected": dict(found.unexpected),
        "rss_mib": {name: round(mib) for name, (mib, _) in seen.items()},
        "open_files": {name: files for name, (_, files) in seen.items()},
    }
    found.outcomes.clear()
    found.unexpected.clear()
    print(json.dumps(line), flush=True)
    return line


def sampled(process: int) -> dict[str, tuple[float, int]]:
    """MiB and open files of each of the service's processes; Ray's own are put together."""
    found: dict[str, tuple[float, int]] = {}
    for each in [psutil.Process(process), *psutil.Process(process).children(recursive=True)]:
        with suppress(psutil.Error):
            words = each.cmdline()
            # Ray names a worker by its actor, and while it works by the method too.
            name = words[0].split(".")[0] if words and words[0].startswith("ray::") else ""
            name = name.removeprefix("ray::").removeprefix("ServeReplica:")
            if not words or name in ("", "IDLE"):
                name = "Ray and driver"
            mib, files = found.get(name, (0.0, 0))
            rss = each.memory_info().rss / 2**20
            found[name] = (mib + rss, files + each.num_fds())
    return found


def at_rest(process: int) -> dict[str, Any]:
    """What the policy's engine holds when nobody asks for anything."""
    import ray
    from ray import serve

    (address,) = {
        word.partition("=")[2]
        for each in psutil.Process(process).children(recursive=True)
        for word in each.cmdline()
        if word.startswith("--gcs-address=")
    }
    ray.init(address, log_to_driver=False, logging_level="ERROR")
    try:
        handle = serve.get_deployment_handle("model", app_name="policies")
        handle.about.remote().result()  # a handle's first call takes its time
        begun = time.monotonic()
        while True:
            running, use = handle.running.remote().result(), handle.kv_cache_use.remote().result()
            waited = time.monotonic() - begun
            if (running, use) == (0, 0) or waited > _REST_S:
                rest = {"running": running, "kv_cache_use": use, "after_s": round(waited, 1)}
                return {"at_rest": rest}
            time.sleep(0.5)
    finally:
        ray.shutdown()


def verdict(found: Found, rest: dict[str, Any]) -> dict[str, Any]:
    """What grew between the first and the last quarter, and what went wrong."""
    growth, grown = {}, []
    for name, samples in found.samples.items():
        last = samples[-1][0]
        first, final = (
            [each for each in samples if low <= each[0] <= high]
            for low, high in ((0, last / 4), (last * 3 / 4, last))
        )
        mib, files = (
            [statistics.median(each[place] for each in part) for part in (first, final)]
            for place in (1, 2)
        )
        growth[name] = {
            "mib": [round(each) for each in mib],
            "files": [int(each) for each in files],
        }
        added = mib[1] - mib[0]
        if added > max(_GROWTH_MIB, _GROWTH_SHARE * mib[0]) or files[1] - files[0] > _GROWTH_FILES:
            grown.append(name)
    held = rest["at_rest"]
    empty = (held["running"], held["kv_cache_use"]) == (0, 0)
    return {
        "verdict": "good" if empty and not grown and not found.all_unexpected else "BAD",
        "requests": found.requests,
        "kinds": dict(found.kinds),
        "unexpected": dict(found.all_unexpected),
        "grown": grown,
        "first_and_last_quarter": growth,
        "engine_empty": empty,
    }
