"""k samples of each prompt, side by side: the `samples` stage and ray.data.llm on repeated rows.

    python benchmarks/sampling.py                 # k = 5 and k = 10, samples/s
    python benchmarks/sampling.py --rows 200 --k 5

ray.data.llm gives the first of n samples only, so it is fed each prompt k times. Both get the same
prompts (tinyworld), model, dtype, a seed per sample, threads and batch limits, and run in a process
of their own, one after the other. `samples/s` counts from the command to the finished Parquet,
imports and engine start included. The prompt is computed once where the engine caches prefixes (on
a GPU by default; here `--prefix-caching` turns it on for both).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from generation import (
    BATCHED_TOKENS,
    MAX_LEN,
    MAX_SEQS,
    UNIT_ROWS,
    Watch,
    busy_seconds,
    children_seconds,
    doubts,
    write_pairs,
)

SAMPLING = {"temperature": 1.0, "top_p": 0.95, "max_tokens": 64}
TARGET = 1.5


def ours(rows: str, out: str, model: str, k: int, caching: bool) -> dict[str, Any]:
    """The `samples` stage's pass and its finish."""
    from rayonale import cluster
    from rayonale.enrich.samples import SampleSettings, SampleTask
    from rayonale.generate import finish, stream
    from rayonale.generate.pool import Engines
    from rayonale.generate.settings import EngineOptions

    settings = SampleSettings.model_validate({"model": model, "n": k, "sampling": SAMPLING})
    options = EngineOptions(
        max_num_seqs=MAX_SEQS, max_model_len=MAX_LEN, max_num_batched_tokens=BATCHED_TOKENS,
        prefix_caching=caching,
    )  # fmt: skip
    totals = {"samples": 0}

    def count(row: dict[str, Any]) -> dict[str, Any]:
        totals["samples"] += len(row["responses"])
        return row

    cluster.connect(os.cpu_count())
    with Engines() as engines:
        pool = engines.get(model, options)
        begun = time.monotonic()
        task = SampleTask(settings, settings.sampling)
        report = stream.generate(rows, f"{out}/work", task, pool, identity="x")
        finish.split(f"{out}/work", out, count)
        passed = time.monotonic() - begun
    return {**totals, "tokens": report.tokens, "pass_seconds": passed}


def ray_data_llm(rows: str, out: str, model: str, k: int, caching: bool) -> dict[str, Any]:
    """ray.data.llm: read, repeat, engine, write; in its fastest set-up here (see generation.py)."""
    import pyarrow.parquet as pq
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    from rayonale.data import tokens
    from rayonale.generate.settings import row_seed

    ray.init(num_cpus=os.cpu_count(), include_dashboard=False, logging_level="WARNING")
    tokenizer = tokens.load_tokenizer(model)
    stop = tokens.stop_token_ids(tokenizer)

    def repeated(row: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"id": row["id"], "sample": i, "prompt": row["prompt"]} for i in range(k)]

    def before(row: dict[str, Any]) -> dict[str, Any]:
        messages = [dict(message) for message in row["prompt"]]
        prompt = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        ).removeprefix(tokenizer.bos_token or "")  # the engine's tokenizer adds it
        seed = row_seed(0, row["id"], int(row["sample"]))
        sampling = {**SAMPLING, "seed": seed, "stop_token_ids": stop}
        return {"prompt": prompt, "sampling_params": sampling, "id": row["id"]}

    def after(row: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": row["id"], "text": row["generated_text"], "tokens": row["num_generated_tokens"]
        }  # fmt: skip

    config = vLLMEngineProcessorConfig(
        model_source=model,
        engine_kwargs={
            "dtype": "float32",
            "enforce_eager": True,
            "max_model_len": MAX_LEN,
            "max_num_seqs": MAX_SEQS,
            "max_num_batched_tokens": BATCHED_TOKENS,
            "enable_chunked_prefill": False,
            "enable_prefix_caching": caching,
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
    data = ray.data.read_parquet(rows, columns=["id", "prompt"]).flat_map(repeated)
    data = data.repartition(target_num_rows_per_block=UNIT_ROWS)
    begun = time.monotonic()
    processor(data).write_parquet(f"{out}/rows")
    passed = time.monotonic() - begun
    table = pq.read_table(f"{out}/rows")
    total = int(sum(table["tokens"].to_pylist()))
    return {"samples": table.num_rows, "tokens": total, "pass_seconds": passed}


SYSTEMS: dict[str, Callable[..., dict[str, Any]]] = {"ours": ours, "ray.data.llm": ray_data_llm}


def measure(system: str, rows: str, model: str, k: int, caching: bool) -> dict[str, Any]:
    """Run one system in a process of its own; `seconds` is the whole command."""
    with tempfile.TemporaryDirectory() as out:
        options = [rows, out, model, str(k), str(int(caching))]
        command = [sys.executable, __file__, "--system", system, *options]
        environment = {n: v for n, v in os.environ.items() if n != "PYTHONDONTWRITEBYTECODE"}
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
    own += numbers.pop("ray_cpu_seconds", 0.0)
    return {
        "system": system, "k": k, **numbers, "seconds": seconds,
        "samples_per_s": numbers["samples"] / seconds, "cpu_seconds": own,
        "foreign_cores": max(0.0, busy - own) / seconds,
    }  # fmt: skip


def table(found: list[dict[str, Any]]) -> dict[str, float]:
    """Print the comparison; the ratio for each k, none where there are doubts."""
    ratios = {}
    for k in dict.fromkeys(n["k"] for n in found):
        own = [n for n in found if n["k"] == k]
        for n in own:
            print(
                f"k = {k:2} {n['system']:14} {n['samples']:6} samples {n['tokens']:8} tokens "
                f"{n['seconds']:7.1f} s {n['samples_per_s']:7.1f} samples/s, "
                f"others {n['foreign_cores']:.2f} cores"
            )
        if told := doubts(own):
            print(f"k = {k}: NOT COMPARABLE, no ratio: " + "; ".join(told))
            continue
        best = {
            name: max(n["samples_per_s"] for n in own if n["system"] == name) for name in SYSTEMS
        }
        ratios[f"k = {k}"] = best["ours"] / best["ray.data.llm"]
        print(f"k = {k}: {ratios[f'k = {k}']:.2f} times ray.data.llm (to reach {TARGET})")
    return ratios


def main() -> None:
    """Measure, print, write JSON."""
    if sys.argv[1:2] == ["--system"]:
        system, rows, out, model, k, caching = sys.argv[2:]
        watch = Watch()
        numbers = SYSTEMS[system](rows, out, model, int(k), bool(int(caching)))
        numbers["ray_cpu_seconds"] = watch.seconds()
        print("RESULT " + json.dumps(numbers), flush=True)
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000, help="prompts")
    parser.add_argument("--k", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--model", default="tinyworld")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--prefix-caching", action="store_true")
    parser.add_argument("--out", default="runs/benchmarks")
    chosen = parser.parse_args()
    from rayonale import models

    found = []
    with tempfile.TemporaryDirectory() as folder:
        frozen = str(shutil.copytree(models.resolve(chosen.model), f"{folder}/model"))
        write_pairs(f"{folder}/rows", chosen.rows)
        for k in chosen.k:
            for repeat in range(chosen.repeats):
                for system in list(SYSTEMS)[:: 1 if repeat % 2 == 0 else -1]:
                    found.append(
                        measure(system, f"{folder}/rows", frozen, k, chosen.prefix_caching)
                    )
                    print(json.dumps(found[-1]), flush=True)
    path = Path(chosen.out) / "sampling.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {"model": chosen.model, "cores": os.cpu_count(), "measured": found}
    path.write_text(json.dumps({**result, "ratios": table(found)}, indent=2) + "\n")
    print(path)


if __name__ == "__main__":
    main()
