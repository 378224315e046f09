"""Ten judgements of every input: the judge's pass beside ray.data.llm, and killed in the middle.

    python benchmarks/judgements.py                  judgements/s: ours, and ray.data.llm
    python benchmarks/judgements.py --only kill      kill -9 halfway, the same command again

ray.data.llm gives one sample a row, so there every input comes ten times, with the seeds that ours
draws with. Both get the same prompts, model, dtype, sampling, threads and batch limits, and run in
a process of their own; judgements/s counts from the command to the finished Parquet. After a kill
exactly inputs × 10 judgements must be there, each seed of an input once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import generation

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 96}
REPEATS, TARGET = 10, 1.5
TEMPLATES = {"pointwise": "tinyworld/judge_pointwise", "pairwise": "tinyworld/judge_pairwise"}


def settings(model: str) -> Any:
    """Of the `judge` stage."""
    from rayonale.enrich.judgements import JudgeSettings

    limits = {"max_num_seqs": generation.MAX_SEQS, "max_model_len": generation.MAX_LEN,
              "max_num_batched_tokens": generation.BATCHED_TOKENS}  # fmt: skip
    return JudgeSettings.model_validate(
        {**TEMPLATES, "model": model, "show": [], "n": REPEATS, "sampling": SAMPLING,
         "engine": limits, "unit_rows": 16}
    )  # fmt: skip


def write_inputs(folder: str, count: int) -> None:
    """Inputs with exact labels, as `ingest` leaves them."""
    from rayonale import records, storage
    from rayonale.data import formats
    from rayonale.tinyworld import judged

    knobs = judged.TinyworldJudgementSettings()
    layout = formats.get("feedback_collection")

    def rows() -> Any:
        for number in range(count):
            row = layout.convert(judged.pointwise_row(11, number, knobs))
            empty = dict.fromkeys(records.JUDGEMENT_SET.names)
            yield {**empty, **row, "id": f"{number:032x}", "split": "train", "metadata": "{}"}

    storage.write_rows(folder, rows(), records.JUDGEMENT_SET)


def write_repeated(inputs: str, folder: str, model: str) -> None:
    """Every prompt ten times with the seeds of our judgements, for ray.data.llm."""
    import pyarrow as pa

    from rayonale import storage
    from rayonale.generate.settings import row_seed

    words = settings(model).wording()
    schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("seed", pa.int64())])

    def rows() -> Any:
        for row in storage.read_rows(inputs):
            for number in range(REPEATS):
                seed = row_seed(0, f"{row['id']}:None", number)
                text = words.render(row, None)
                yield {"id": f"{row['id']}/{number}", "text": text, "seed": seed}

    storage.write_rows(folder, rows(), schema)


def ours(rows: str, out: str, model: str) -> dict[str, Any]:
    """The `judge` stage, whole."""
    from rayonale import cluster
    from rayonale.enrich import judgements
    from rayonale.generate.pool import Engines
    from rayonale.stages import StageContext, StageOutput

    cluster.connect(os.cpu_count())
    with Engines() as engines:
        inputs = {"rows": StageOutput("inputs", rows, "x")}
        run: Any = None
        context = StageContext("judged", out, inputs, engines, "f" * 32, "c" * 32, run)
        begun = time.monotonic()
        result = judgements.run(context, settings(model))
        passed = time.monotonic() - begun
    metrics = result.metrics
    return {
        "judgements": int(metrics["judgements"]),
        "tokens": int(metrics["generated_tokens"]),
        "rows_resumed": int(metrics["rows_resumed"]),
        "pass_seconds": passed,
    }


def ray_data_llm(rows: str, out: str, model: str) -> dict[str, Any]:
    """ray.data.llm over inputs that come ten times."""
    repeated = f"{out}/repeated"
    write_repeated(rows, repeated, model)
    found = generation.ray_data_llm(
        repeated,
        out,
        model,
        asked=lambda row: ([{"role": "user", "content": row["text"]}], int(row["seed"])),
        columns=("id", "text", "seed"),
        drawn=SAMPLING,
    )
    return {"judgements": found["rows"], **found}


SYSTEMS: dict[str, Callable[[str, str, str], dict[str, Any]]] = {
    "ours": ours,
    "ray.data.llm": ray_data_llm,
}


def start(system: str, rows: str, out: str, model: str) -> subprocess.Popen[str]:
    """A system in a process of its own."""
    command = [sys.executable, __file__, "--system", system, rows, out, model]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What it measured.

    Raises:
        SystemExit: it failed.
    """
    told, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{process.args!r} failed with exit status {process.returncode}")
    marked = [line for line in told.splitlines() if line.startswith("RESULT ")]
    found: dict[str, Any] = json.loads(marked[-1].removeprefix("RESULT "))
    return found


def speed(inputs: int, model: str) -> bool:
    """Print judgements/s of both; whether ours reaches the target."""
    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(f"{folder}/rows", inputs)
        for system in SYSTEMS:
            busy, begun = generation.busy_seconds(), time.monotonic()
            found = finish(start(system, f"{folder}/rows", f"{folder}/{system}", model))
            seconds = time.monotonic() - begun
            cores = (generation.busy_seconds() - busy) / seconds
            rates[system] = found["judgements"] / seconds
            print(
                f"{system:14} {found['judgements']:6} judgements {found['tokens']:8} tokens "
                f"{seconds:7.1f} s {rates[system]:7.1f} judgements/s; {cores:.2f} cores were busy",
                flush=True,
            )
    ratio = rates["ours"] / rates["ray.data.llm"]
    print(f"judgements/s against ray.data.llm: {ratio:.2f} (to reach {TARGET})")
    return ratio >= TARGET


def kill(inputs: int, model: str) -> bool:
    """Kill the driver halfway, run the same again; whether every judgement is there once."""
    from rayonale import storage

    with tempfile.TemporaryDirectory() as folder:
        rows, out = f"{folder}/rows", f"{folder}/out"
        write_inputs(rows, inputs)
        units = Path(out) / "work" / "units"
        half = inputs // settings(model).unit_rows // 2
        process = start("ours", rows, out, model)
        while process.poll() is None and len(list(units.glob("unit-*.parquet"))) < half:
            time.sleep(0.2)
        if process.poll() is not None:
            raise SystemExit("it ended before it could be killed; take more inputs")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        print(f"kill -9 with {len(list(units.glob('unit-*.parquet')))} units done", flush=True)
        found = finish(start("ours", rows, out, model))
        judged = list(storage.read_rows(f"{out}/rows", ["id", "judgements"]))
    ids = {row["id"] for row in judged}
    total = sum(len(row["judgements"]) for row in judged)
    seeds = {(row["id"], each["seed"]) for row in judged for each in row["judgements"]}
    print(
        f"{found['rows_resumed']} of {inputs} inputs were done before; {len(judged)} rows, "
        f"{len(ids)} ids, {total} judgements, {len(seeds)} different; expected {inputs * REPEATS}"
    )
    return len(judged) == len(ids) == inputs and total == len(seeds) == inputs * REPEATS


def main() -> int:
    """Measure; 1 when the target is missed."""
    if sys.argv[1:2] == ["--system"]:
        system, rows, out, model = sys.argv[2:]
        print("RESULT " + json.dumps(SYSTEMS[system](rows, out, model)), flush=True)
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--inputs", type=int, default=500)
    parser.add_argument("--model", default="tinyworld")
    parser.add_argument("--only", choices=["speed", "kill"], default="speed")
    chosen = parser.parse_args()
    from rayonale import models

    measure = speed if chosen.only == "speed" else kill
    return 0 if measure(chosen.inputs, models.resolve(chosen.model)) else 1


if __name__ == "__main__":
    sys.exit(main())
