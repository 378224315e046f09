"""Rationales at scale, side by side: ours, ray.data.llm and raw `vllm.LLM.generate`.

    python benchmarks/generation.py                    # rows/s and tokens/s
    python benchmarks/generation.py --only memory      # the driver's memory, 1,000 and 20,000 rows

Every system gets the same prompts (tinyworld pairs in the detailed rationale template), model,
dtype, sampling with a seed per row, threads and batch limits, and runs in a process of its own,
one after the other. `rows/s` counts from the command to the finished Parquet, imports and engine
start included; `tokens/s` is steady state, of an engine that has answered before: from the first
hand-over to the engine to the last answer. ray.data.llm runs in its fastest set-up here: no stage
processes beside the engine's (its default of five starves two cores), both cores bound, batches
overlapping.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SAMPLING = {"temperature": 1.0, "top_p": 0.95, "max_tokens": 96}
MAX_SEQS, MAX_LEN, BATCHED_TOKENS, UNIT_ROWS = 256, 2_048, 8_192, 64
WARM_ROWS = 32  # answered before tokens/s is measured
TEMPLATE = "tinyworld/rationale_detailed"
TARGETS = {"rows/s against ray.data.llm": 1.3, "tokens/s against vllm.LLM.generate": 0.95}


def write_pairs(folder: str, count: int) -> None:
    """Tinyworld pairs as Parquet, the input of every system."""
    from rayonale import records, storage, tinyworld

    def said(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    def row(i: int, raw: dict[str, Any]) -> dict[str, Any]:
        best, worst = ("a", "b") if raw["preferred"] == "a" else ("b", "a")
        return {
            "id": f"{i:032x}",
            "split": "train",
            "line": i + 1,
            "occurrence": 0,
            "prompt": said("user", raw["prompt"]),
            "chosen": said("assistant", raw[f"response_{best}"]),
            "rejected": said("assistant", raw[f"response_{worst}"]),
        }

    raws = tinyworld.generate_pairs(count, 11)
    storage.write_rows(folder, (row(i, raw) for i, raw in enumerate(raws)), records.PAIR)


def asked(row: dict[str, Any]) -> tuple[list[dict[str, str]], int]:
    """Messages and seed of a row, as our stage makes them."""
    from rayonale import prompts
    from rayonale.enrich.transcript import prompt_text, response_text
    from rayonale.generate.settings import row_seed

    text = prompts.render(
        TEMPLATE,
        prompt=prompt_text(row["prompt"]),
        chosen=response_text(row["chosen"]),
        rejected=response_text(row["rejected"]),
        chosen_first=True,
    )
    return [{"role": "user", "content": text}], row_seed(0, row["id"], 0)


def ours(rows: str, out: str, model: str) -> dict[str, Any]:
    """The `rationales` pass and its finish."""
    return _ours(rows, out, model, warm=False)


def ours_warm(rows: str, out: str, model: str) -> dict[str, Any]:
    """The same, after a pass over 32 other rows: what the engines do in a long pass."""
    return _ours(rows, out, model, warm=True)


def _ours(rows: str, out: str, model: str, warm: bool) -> dict[str, Any]:
    from rayonale import cluster, prompts
    from rayonale.enrich.rationales import RationaleSettings, RationaleTask
    from rayonale.generate import finish, stream
    from rayonale.generate.pool import Engines
    from rayonale.generate.settings import EngineOptions

    settings = RationaleSettings.model_validate(
        {"model": model, "template": TEMPLATE, "sampling": SAMPLING, "unit_rows": UNIT_ROWS}
    )
    task = RationaleTask(prompts.source(TEMPLATE), TEMPLATE, settings, settings.sampling)
    options = EngineOptions(
        max_num_seqs=MAX_SEQS, max_model_len=MAX_LEN, max_num_batched_tokens=BATCHED_TOKENS
    )
    cluster.connect(os.cpu_count())
    with Engines() as engines:
        pool = engines.get(model, options)
        if warm:
            write_pairs(f"{out}/few", WARM_ROWS)
            stream.generate(f"{out}/few", f"{out}/warm", task, pool, identity="x")
        begun = time.monotonic()
        report = stream.generate(rows, f"{out}/work", task, pool, identity="x")
        finish.split(f"{out}/work", out)
        passed = time.monotonic() - begun
    return {
        "rows": report.rows,
        "tokens": report.tokens,
        "engine_seconds": report.engine_seconds,
        "pass_seconds": passed,
    }


def ray_data_llm(
    rows: str,
    out: str,
    model: str,
    *,
    asked: Callable[[dict[str, Any]], tuple[list[dict[str, str]], int]] = asked,
    columns: tuple[str, ...] = ("id", "prompt", "chosen", "rejected"),
    drawn: dict[str, Any] = SAMPLING,
) -> dict[str, Any]:
    """ray.data.llm: read, template, engine, write.

    Args:
        asked: a row's messages and seed; columns: what it reads; drawn: how texts are drawn.
    """
    import pyarrow.parquet as pq
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    from rayonale.data import tokens

    ray.init(num_cpus=os.cpu_count(), include_dashboard=False, logging_level="WARNING")
    tokenizer = tokens.load_tokenizer(model)
    stop = tokens.stop_token_ids(tokenizer)

    def before(row: dict[str, Any]) -> dict[str, Any]:
        messages, seed = asked(row)
        prompt = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        ).removeprefix(tokenizer.bos_token or "")  # the engine's tokenizer adds it
        sampling = {**drawn, "seed": seed, "stop_token_ids": stop}
        return {"prompt": prompt, "sampling_params": sampling, "id": row["id"]}

    def after(row: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": row["id"],
            "text": row["generated_text"],
            "tokens": row["num_generated_tokens"],
        }

    config = vLLMEngineProcessorConfig(
        model_source=model,
        engine_kwargs={
            "dtype": "float32",
            "enforce_eager": True,
            "max_model_len": MAX_LEN,
            "max_num_seqs": MAX_SEQS,
            "max_num_batched_tokens": BATCHED_TOKENS,
            "enable_chunked_prefill": False,
            "enable_prefix_caching": False,
            "kv_cache_memory_bytes": 2**30,
            "generation_config": "vllm",
            "distributed_executor_backend": "mp",
        },
        batch_size=UNIT_ROWS,
        max_concurrent_batches=8,
        concurrency=1,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        prepare_multimodal_stage=False,
        log_engine_metrics=False,
        placement_group_config={"bundle_per_worker": {"CPU": 1, "GPU": 0}},
        runtime_env={
            "env_vars": {
                "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}",
                "VLLM_LOGGING_LEVEL": "ERROR",
            }
        },
    )
    processor = build_processor(config, preprocess=before, postprocess=after)
    data = ray.data.read_parquet(rows, columns=list(columns))
    data = data.repartition(target_num_rows_per_block=UNIT_ROWS)
    begun = time.monotonic()
    processor(data).write_parquet(f"{out}/rows")
    passed = time.monotonic() - begun
    table = pq.read_table(f"{out}/rows")
    total = int(sum(table["tokens"].to_pylist()))
    return {
        "rows": table.num_rows,
        "tokens": total,
        "pass_seconds": passed,
    }


def raw_generate(rows: str, out: str, model: str) -> dict[str, Any]:
    """`vllm.LLM.generate` on all prompts at once, in this process; no Ray, nothing written."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    os.environ["OMP_NUM_THREADS"] = str(os.cpu_count())
    from vllm import LLM, SamplingParams

    from rayonale import storage
    from rayonale.data import tokens

    tokenizer = tokens.load_tokenizer(model)
    stop = tokens.stop_token_ids(tokenizer)
    llm = LLM(
        model=model,
        dtype="float32",
        enforce_eager=True,
        max_model_len=MAX_LEN,
        max_num_seqs=MAX_SEQS,
        max_num_batched_tokens=BATCHED_TOKENS,
        enable_chunked_prefill=False,
        enable_prefix_caching=False,
        kv_cache_memory_bytes=2**30,
        generation_config="vllm",
    )
    prompts, params = [], []
    for row in storage.read_rows(rows):
        messages, seed = asked(row)
        prompts.append({"prompt_token_ids": tokens.encode_prompt(tokenizer, messages)})
        params.append(SamplingParams(**SAMPLING, seed=seed, stop_token_ids=stop))
    llm.generate(prompts[:WARM_ROWS], params[:WARM_ROWS], use_tqdm=False)
    begun = time.monotonic()
    found = llm.generate(prompts, params, use_tqdm=False)
    seconds = time.monotonic() - begun
    drawn = sum(len(each.outputs[0].token_ids) for each in found)
    return {"rows": len(found), "tokens": drawn, "engine_seconds": seconds}


def memory(rows: str, out: str, model: str) -> dict[str, Any]:
    """Our pass with short answers; what matters is the driver's memory."""
    SAMPLING["max_tokens"] = 2
    numbers = ours(rows, out, model)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024
    return {**numbers, "driver_peak_mib": peak}


SYSTEMS: dict[str, Callable[[str, str, str], dict[str, Any]]] = {
    "ours": ours,
    "ours, warm": ours_warm,
    "ray.data.llm": ray_data_llm,
    "vllm.LLM.generate": raw_generate,
    "memory": memory,
}
SPEED = ("ours", "ray.data.llm", "ours, warm", "vllm.LLM.generate")


def busy_seconds() -> float:
    """CPU seconds that the whole machine has worked since it started."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _, _, irq, softirq, _ = map(int, fields)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def children_seconds() -> float:
    """CPU seconds of finished child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Watch:
    """CPU seconds of this process's descendants (Ray's), those included that have ended.

    Ray's workers are not waited for by their parents when they are killed, so no total of the
    system has their time: it is read each half second while they live.
    """

    def __init__(self) -> None:
        self._seen: dict[int, float] = {}
        threading.Thread(target=self._watch, daemon=True).start()

    def seconds(self) -> float:
        """Up to now."""
        self._read()
        return sum(self._seen.values())

    def _watch(self) -> None:
        while True:
            self._read()
            time.sleep(0.5)

    def _read(self) -> None:
        import psutil

        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                self._seen[process.pid] = times.user + times.system


def measure(system: str, rows: str, model: str) -> dict[str, Any]:
    """Run one system in a process of its own; `seconds` is the whole command."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, __file__, "--system", system, rows, out, model]
        # Else every process of Ray compiles its imports again, which would be most of what is seen.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        begun, busy, own = time.monotonic(), busy_seconds(), children_seconds()
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=False, env=environment
        )
        seconds = time.monotonic() - begun
        busy, own = busy_seconds() - busy, children_seconds() - own
        if done.returncode:
            raise SystemExit(f"{system} failed with exit status {done.returncode}")
        marked = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        numbers = json.loads(marked[-1].removeprefix("RESULT "))
    numbers |= {"seconds": seconds, "rows_per_s": numbers["rows"] / seconds}
    # Ray's processes are not waited for by ours, so what they used is told by the system.
    own += numbers.pop("ray_cpu_seconds", 0.0)
    numbers |= {"cpu_seconds": own, "foreign_cores": max(0.0, busy - own) / seconds}
    if "engine_seconds" in numbers:
        numbers["tokens_per_s"] = numbers["tokens"] / numbers["engine_seconds"]
    return numbers


def speed(rows: int, model: str, repeats: int) -> list[dict[str, Any]]:
    """Systems take turns on one frozen copy of model and prompts; every measurement is kept."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        frozen = shutil.copytree(model, f"{folder}/model")  # retraining must not change it midway
        write_pairs(f"{folder}/rows", rows)
        for repeat in range(repeats):
            # In turn from either end, so that a machine that slows down favours neither.
            for system in SPEED[:: 1 if repeat % 2 == 0 else -1]:
                numbers = measure(system, f"{folder}/rows", str(frozen))
                found.append({"system": system, "repeat": repeat, **numbers})
                print(json.dumps(found[-1]), flush=True)
    return found


def doubts(found: list[dict[str, Any]]) -> list[str]:
    """Why the measurements cannot be compared with each other; empty when they can.

    Equal weights, prompts and seeds in float32 draw (nearly) the same tokens, so another number
    of them means other work. A machine that others use more in one measurement than in another
    compares the others, not the systems.
    """
    told = []
    tokens = [n["tokens"] for n in found]
    if max(tokens) > 1.01 * min(tokens):
        counts = ", ".join(f"{n['system']} {n['tokens']}" for n in found)
        told.append(f"systems drew different numbers of tokens: {counts}")
    foreign = [n["foreign_cores"] for n in found]
    if max(foreign) - min(foreign) > 0.25 * (os.cpu_count() or 1):
        used = ", ".join(f"{n['system']} {n['foreign_cores']:.2f}" for n in found)
        told.append(f"cores used by other programs differed: {used}")
    return told


def table(found: list[dict[str, Any]]) -> dict[str, float]:
    """Print the comparison; ratios of each system's best, none when there are doubts."""
    for n in found:
        steady = f"{n['tokens_per_s']:8.0f} tokens/s" if "tokens_per_s" in n else " " * 17
        print(
            f"{n['system']:18} {n['rows']:6} rows {n['tokens']:8} tokens {n['seconds']:7.1f} s "
            f"{n['rows_per_s']:7.1f} rows/s {steady} others {n['foreign_cores']:.2f} cores"
        )
    if told := doubts(found):
        print("NOT COMPARABLE, no ratios: " + "; ".join(told))
        return {}

    def best(system: str, key: str) -> float:
        return max(float(n[key]) for n in found if n["system"] == system)

    ratios = {
        "rows/s against ray.data.llm": best("ours", "rows_per_s")
        / best("ray.data.llm", "rows_per_s"),
        "tokens/s against vllm.LLM.generate": best("ours, warm", "tokens_per_s")
        / best("vllm.LLM.generate", "tokens_per_s"),
    }
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f} (to reach {TARGETS[name]})")
    return ratios


def main() -> None:
    """Measure, print, write JSON."""
    if sys.argv[1:2] == ["--system"]:
        system, rows, out, model = sys.argv[2:]
        watch = Watch()
        numbers = SYSTEMS[system](rows, out, model)
        numbers["ray_cpu_seconds"] = watch.seconds()
        print("RESULT " + json.dumps(numbers), flush=True)
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--model", default="tinyworld")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", choices=["speed", "memory"], default="speed")
    parser.add_argument("--memory-rows", type=int, nargs=2, default=[1_000, 20_000])
    parser.add_argument("--out", default="runs/benchmarks")
    chosen = parser.parse_args()
    from rayonale import models

    model = models.resolve(chosen.model)
    result: dict[str, Any] = {"model": chosen.model, "cores": os.cpu_count()}
    if chosen.only == "speed":
        result["measured"] = speed(chosen.rows, model, chosen.repeats)
        result["ratios"] = table(result["measured"])
        result["doubts"] = doubts(result["measured"])
    else:
        result["memory"] = []
        for rows in chosen.memory_rows:
            with tempfile.TemporaryDirectory() as folder:
                write_pairs(folder, rows)
                found = measure("memory", folder, model)
            print(f"{rows} rows: driver peak {found['driver_peak_mib']:.0f} MiB", flush=True)
            result["memory"].append(found)
    path = Path(chosen.out) / f"generation_{chosen.only}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
