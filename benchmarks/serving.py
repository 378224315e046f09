"""Serving measured against peers in one run: ours, vLLM's own server, and ray.serve.llm.

    python benchmarks/serving.py --out serving.json
    python benchmarks/serving.py --sides ours vllm --clients 32

One server at a time, the same model, settings, requests and cores; each is warmed up first. The
load's client runs on the same cores. `--rewards MODEL` measures rewards instead, served against
offline; `--soak SECONDS` our service under mixed load, for what fails and what grows.

`cpu_ms` is what a request took of the cores, by process: it says more than tokens a second where
the machine does something else beside.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

import serving_load
from rayonale import models
from rayonale.serve import keys

MAX_LEN, MAX_SEQS = 1_024, 64
SIDES = ("ours", "vllm", "ray_serve_llm")
_START_S = 300


def ours(
    work: Path, model: str, port: int, oracle: str | None = None, threads: int = 1
) -> list[str]:
    """Command of our service; its deployment file is written to `work`."""
    engine = {"max_model_len": MAX_LEN, "max_num_seqs": MAX_SEQS, "kv_cache_gib": 1}
    engine |= {"threads": threads}
    access = {"keys_file": str(work / "keys.txt")}
    policy = {"name": "model", "model": model, "engine": engine}
    limits = {"conversations": 1_000}
    if oracle is None:
        args: dict[str, Any] = {"policies": [policy], "access": access}
        path = "serve.policies:app"
    else:
        scored = {"model": oracle, "engine": engine}
        args = {"oracle": scored, "access": access, "limits": limits}
        path = "serve.oracle:app"
    applications = [{"name": "app", "import_path": path, "route_prefix": "/", "args": args}]
    value = {"http_options": {"host": "127.0.0.1", "port": port}, "applications": applications}
    (work / "serve.yaml").write_text(yaml.safe_dump(value))
    return serve_command(work)


def serve_command(work: Path) -> list[str]:
    """Command that serves what the deployment file in `work` says."""
    return [sys.executable, "jobs/serve_models.py", str(work / "serve.yaml")]


def vllm(work: Path, model: str, port: int) -> list[str]:
    """Command of vLLM's own server."""
    return [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model),
        *("--served-model-name", "model", "--dtype", "float32", "--enforce-eager"),
        *("--max-model-len", str(MAX_LEN), "--max-num-seqs", str(MAX_SEQS)),
        *("--host", "127.0.0.1", "--port", str(port), "--generation-config", "vllm"),
        "--no-enable-log-requests",
    ]


def ray_serve_llm(work: Path, model: str, port: int) -> list[str]:
    """Command of Ray Serve's stock application."""
    script = work / "stock.py"
    script.write_text(
        f"""
import time
import ray
from ray import serve
from ray.serve.llm import LLMConfig, build_openai_app
config = LLMConfig(
    model_loading_config={{"model_id": "model", "model_source": {model!r}}},
    engine_kwargs=dict(dtype="float32", enforce_eager=True, max_model_len={MAX_LEN},
                       max_num_seqs={MAX_SEQS}, generation_config="vllm"),
    deployment_config=dict(num_replicas=1, max_ongoing_requests=256),
    placement_group_config=dict(bundles=[dict(CPU=1)]),
    runtime_env=dict(env_vars=dict(VLLM_CPU_KVCACHE_SPACE="1")),
)
ray.init(num_cpus=8)  # its ingress and its engine reserve more than two cores have
serve.start(http_options=dict(host="127.0.0.1", port={port}))
serve.run(build_openai_app(dict(llm_configs=[config])), name="stock", route_prefix="/")
time.sleep(3600)
"""
    )
    return [sys.executable, str(script)]


COMMANDS = {"ours": ours, "vllm": vllm, "ray_serve_llm": ray_serve_llm}


@dataclass(frozen=True)
class Started:
    """A running server: its process, and the seconds until it answered."""

    process: int
    seconds: float


@contextmanager
def server(command: list[str], work: Path, port: int, key: str) -> Iterator[Started]:
    """A running server, as soon as it answers."""
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("RAY_ADDRESS", None)
    begun = time.monotonic()
    with (work / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            while not _answers(port, key):
                if process.poll() is not None or time.monotonic() - begun > _START_S:
                    told = (work / "server.log").read_text(errors="replace")[-3_000:]
                    raise RuntimeError(f"{command[1:4]} did not start:\n{told}")
                time.sleep(1)
            yield Started(process.pid, time.monotonic() - begun)
        finally:
            process.terminate()  # it ends its processes itself
            with suppress(subprocess.TimeoutExpired):
                process.wait(60)
            with suppress(ProcessLookupError):  # what is left
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(5)


def _answers(port: int, key: str) -> bool:
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/v1/models")
    asked.add_header("authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(asked, timeout=5) as answer:
            return bool(json.load(answer)["data"])
    except (OSError, ValueError, KeyError):
        return False


def cpu_seconds(process: psutil.Process) -> dict[tuple[int, str], float]:
    """What a process and those below it have taken of the cores, by id and name."""
    found = {}
    for each in [process, *process.children(recursive=True)]:
        with suppress(psutil.Error):
            words, times = each.cmdline() or [each.name()], each.cpu_times()
            if Path(words[0]).name.startswith("python"):
                words = [word for word in words[1:] if not word.startswith("-")] or words
            name = words[0].split("/")[-1]
            if name.startswith("ray::"):  # with the method that it runs now
                name = name.removeprefix("ray::").split(".")[0]
            found[each.pid, name] = times.user + times.system
    return found


def cpu_ms(before: Mapping[Any, float], after: Mapping[Any, float], requests: int) -> Any:
    """Milliseconds that a request took of the cores: in all, and by process."""
    found: Counter[str] = Counter()
    for key, seconds in after.items():
        found[key[1]] += (seconds - before.get(key, 0)) * 1_000 / requests
    shown = {name: round(ms, 2) for name, ms in found.most_common(6)}
    return {"all": round(found.total(), 2), **shown}


def side(name: str, model: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One server under each load."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        work, port = Path(folder), arguments.port
        key = keys.add(work / "keys.txt", "load")
        with server(COMMANDS[name](work, model, port), work, port, key) as started:
            process = psutil.Process(started.process)
            loads = [(c, s) for s in (False, True) for c in arguments.clients]
            for clients, stream in [(8, False), (8, True), *loads]:
                requests = max(arguments.requests * clients // 32, 3 * clients)
                requests = min(requests, arguments.requests * 2)
                before = cpu_seconds(process)
                measured = asyncio.run(
                    serving_load.measure(
                        f"http://127.0.0.1:{port}",
                        "model",
                        key,
                        clients=clients,
                        requests=requests,
                        tokens=arguments.tokens,
                        stream=stream,
                    )
                )
                taken = cpu_ms(before, cpu_seconds(process), requests)
                told = measured.numbers() | {"cpu_ms": taken}
                found.append({"side": name, "start_s": round(started.seconds), **told})
                print(json.dumps(found[-1]), flush=True)
    return found[2:]  # without the warm-up


def main() -> None:
    """Measure, print a line each, write all as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 32, 64])
    parser.add_argument("--requests", type=int, default=256, help="at 32 clients")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--model", default="tinyworld")
    parser.add_argument("--port", type=int, default=8_321)
    parser.add_argument("--rewards", metavar="MODEL", help="measure this reward model instead")
    parser.add_argument(
        "--threads", nargs="+", type=int, default=[1, 2], help="of the engine that gives rewards"
    )
    parser.add_argument("--soak", metavar="SECONDS", type=float, help="mixed load for so long")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.soak:
        import serving_soak

        found = serving_soak.soak(
            arguments.model, arguments.rewards, arguments.soak, arguments.port
        )
    elif arguments.rewards:
        import serving_rewards

        found = serving_rewards.measure(arguments.rewards, arguments.port, arguments.threads)
    else:
        model = models.resolve(arguments.model)
        found = [line for name in arguments.sides for line in side(name, model, arguments)]
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1))
    if arguments.soak and found[-1]["verdict"] != "good":
        sys.exit(1)


if __name__ == "__main__":
    main()
