"""Rewards at scale, side by side: the `score` stage's engines and a batched Transformers forward.

    python benchmarks/scoring.py                         # tokens/s, 2,048 tinyworld pairs
    python benchmarks/scoring.py --model PATH --rows 512
    python benchmarks/scoring.py --pairs pairs.jsonl     # tokens/s, real pairs
    python benchmarks/scoring.py --agree pairs.jsonl     # the same rewards in every way, real pairs

Both sides read the same conversations, already as text, on the same cores, one after the other in
processes of their own, warmed up; the Transformers side sorts by length and pads each batch, which
is its fastest way, and vLLM shares the prompt of a pair's responses. The model is a sequence
classifier; without `--model` an untrained reward head on the embedded base model. `--agree`
compares, on the pairs of a file that `ingest` reads: the trainer's forward alone and packed,
Transformers in padded batches, and vLLM.
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
from pathlib import Path
from typing import Any

TARGET = 1.6
MAX_LEN = 2_048
WARM = 64  # conversations scored before the clock starts


def oracle_folder(place: Path) -> str:
    """An oracle: the embedded model with a drawn head, as training exports it."""
    from rayonale import tinyworld
    from rayonale.train import classifier, reward_head
    from rayonale.train.policy import load_model
    from rayonale.train.settings import RewardHeadSettings

    source = str(tinyworld.base_model_path())
    shutil.copytree(source, place)
    model = load_model(source, "float32", MAX_LEN)
    model.save_pretrained(place)  # in float32, so that agreement can be seen to 1e-5
    head = reward_head.make(model, RewardHeadSettings(std=0.3, seed=1), 0, "").weight.detach()
    reward_head.save(head, place)
    classifier.write(place, head, place / classifier.FOLDER)
    return str(place)


def conversations(rows: int) -> list[dict[str, Any]]:
    """Tinyworld pairs as {prompt, response}, two a pair."""
    from rayonale import tinyworld

    found = []
    for raw in tinyworld.generate_pairs(rows, 11):
        prompt = [{"role": "user", "content": raw["prompt"]}]
        found += [{"prompt": prompt, "response": raw[f"response_{x}"]} for x in "ab"]
    return found


def real_conversations(file: str, rows: int) -> list[dict[str, Any]]:
    """The first pairs of a raw file, two conversations each."""
    from rayonale.data import formats
    from rayonale.data.fields import BadRow

    raws = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    layout, found = formats.detect(raws[:20], file), list[dict[str, Any]]()
    for raw in raws[:rows]:
        try:
            row = layout.convert(raw)
        except BadRow:
            continue
        for side in ("chosen", "rejected"):
            found.append({"prompt": row["prompt"], "response": row[side][-1]["content"]})
    return found


def requests_of(listed: list[dict[str, Any]]) -> list[Any]:
    from rayonale.generate.settings import Request

    return [Request(each["prompt"], response=each["response"]) for each in listed]


def measured(backend: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Rewards and tokens/s of one backend, in this process, without Ray in between."""
    import torch

    from rayonale.generate.rewards import RewardReplica, TransformersReplica
    from rayonale.generate.settings import EngineOptions, Sampling, Weights

    threads = spec["threads"]
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    options = EngineOptions(
        dtype=spec["dtype"], max_model_len=MAX_LEN, threads=threads,
        prefix_caching=False if spec.get("apart") else "auto",
    )  # fmt: skip
    weights = Weights(spec["model"], "one")
    kind = RewardReplica if backend == "vllm" else TransformersReplica
    replica = kind(weights, options)
    requests = requests_of(spec["conversations"])
    replica.generate(weights, requests[:WARM], Sampling())
    started = time.perf_counter()
    found = replica.generate(weights, requests, Sampling())
    seconds = time.perf_counter() - started
    tokens = sum(each.prompt_tokens for each in found)
    wrong = [each.detail for each in found if each.reward is None]
    return {
        "rewards": [each.reward for each in found],
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "left_out": wrong[:3],
    }


def trainer_rewards(oracle: str, listed: list[dict[str, Any]], packed: bool) -> dict[str, Any]:
    """By the trainer's own forward, one response after the other or many packed."""
    import torch

    from rayonale.data import tokens
    from rayonale.train import reward_head
    from rayonale.train.batches import collate
    from rayonale.train.policy import Policy, load_model

    tokenizer = tokens.load_tokenizer(oracle)
    policy = Policy(load_model(oracle, "float32", MAX_LEN), head=reward_head.load(oracle)).eval()
    rewards: list[float | None] = []
    size = 16 if packed else 1
    for start in range(0, len(listed), size):
        rows = []
        for each in listed[start : start + size]:
            said = [{"role": "assistant", "content": each["response"]}]
            prompt, response = tokens.encode_example(tokenizer, each["prompt"], said)  # type: ignore[arg-type]
            rows.append({"prompt": prompt, "response": response})
        fits = [len(row["prompt"]) + len(row["response"]) <= MAX_LEN for row in rows]
        kept = [row for row, fit in zip(rows, fits, strict=True) if fit]
        if not kept:
            rewards += [None] * len(rows)
            continue
        batch = collate(kept, ("response",), whole=True)
        with torch.no_grad():
            found = iter(policy(**batch.inputs("cpu"))[1].tolist())
        rewards += [next(found) if ok else None for ok in fits]
    return {"rewards": rewards}


def apart(work: Path, side: str, spec: dict[str, Any]) -> dict[str, Any]:
    """One side in a process of its own."""
    given, answer = work / f"{side}.json", work / f"{side}-answer.json"
    given.write_text(json.dumps(spec))
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(spec["threads"]),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    command = [sys.executable, __file__, "--side", side, str(given), str(answer)]
    subprocess.run(command, check=True, env=environment)
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


def one_side(side: str, given: str, answer: str) -> None:
    """What a process of its own does."""
    spec = json.loads(Path(given).read_text())
    if side in ("alone", "packed"):
        found = trainer_rewards(spec["oracle"], spec["conversations"], side == "packed")
    else:
        found = measured(side, spec)
    Path(answer).write_text(json.dumps(found))


def furthest(a: dict[str, Any], b: dict[str, Any]) -> tuple[float, int]:
    """Largest difference of two sides' rewards, and how many were compared."""
    both = [
        (x, y)
        for x, y in zip(a["rewards"], b["rewards"], strict=True)
        if x is not None and y is not None
    ]
    return max(abs(x - y) for x, y in both), len(both)


def speed(arguments: argparse.Namespace, work: Path) -> None:
    """tokens/s of both sides, and how far their rewards are apart."""
    model = arguments.model or oracle_folder(work / "oracle") + "/classifier"
    spec = {
        "model": model,
        "dtype": arguments.dtype,
        "threads": arguments.threads,
        "apart": arguments.no_prefix_caching,
        "conversations": real_conversations(arguments.pairs, arguments.rows)
        if arguments.pairs
        else conversations(arguments.rows),
    }
    best: dict[str, dict[str, Any]] = {}
    for _ in range(arguments.repeats):  # taken in turns, the fastest of each counts
        for side in ("transformers", "vllm"):
            found = apart(work, side, spec)
            if side not in best or found["seconds"] < best[side]["seconds"]:
                best[side] = found
    for side, found in best.items():
        rate = found["tokens_per_second"]
        print(
            f"{side:13} {rate:10,.0f} tokens/s  ({found['tokens']:,} in {found['seconds']:.1f} s)"
        )
    difference, compared = furthest(best["vllm"], best["transformers"])
    ratio = best["vllm"]["tokens_per_second"] / best["transformers"]["tokens_per_second"]
    print(
        f"rewards       at most {difference:.2e} apart, {compared:,} compared ({arguments.dtype})"
    )
    print(f"vllm / transformers {ratio:.2f} (target {TARGET})")


def agree(arguments: argparse.Namespace, work: Path) -> None:
    """The same rewards alone, packed, through Transformers and through vLLM, in float32.

    Raises:
        SystemExit: they differ by more than 1e-4.
    """
    oracle = arguments.oracle or oracle_folder(work / "oracle")
    spec = {
        "oracle": oracle,
        "model": f"{oracle}/classifier",
        "dtype": "float32",
        "threads": arguments.threads,
        "conversations": real_conversations(arguments.agree, arguments.rows),
    }
    sides = {s: apart(work, s, spec) for s in ("alone", "packed", "transformers", "vllm")}
    alone = [reward for reward in sides["alone"]["rewards"] if reward is not None]
    print(f"{len(spec['conversations'])} responses, {len(alone)} within {MAX_LEN} tokens; rewards "
          f"from {min(alone):.3f} to {max(alone):.3f}")  # fmt: skip
    worst = 0.0
    for side in ("packed", "transformers", "vllm"):
        difference, compared = furthest(sides["alone"], sides[side])
        worst = max(worst, difference)
        print(f"alone and {side:13} at most {difference:.2e} apart, {compared} compared")
    if worst > 1e-4:
        sys.exit("they do not agree to 1e-4")


def main() -> None:
    """Parse the command line."""
    if sys.argv[1:2] == ["--side"]:
        one_side(*sys.argv[2:5])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="folder of a sequence classifier with one label")
    parser.add_argument("--oracle", help="folder of an oracle, for --agree")
    parser.add_argument(
        "--agree", metavar="FILE", help="compare rewards on the pairs of a raw file"
    )
    parser.add_argument("--pairs", metavar="FILE", help="measure on pairs of a raw file")
    parser.add_argument("--no-prefix-caching", action="store_true", help="prompts are not shared")
    parser.add_argument("--rows", type=int, help="pairs (default 2,048; with --agree 512)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    arguments.rows = arguments.rows or (512 if arguments.agree else 2_048)
    with tempfile.TemporaryDirectory(prefix="rayonale-scoring-") as folder:
        (agree if arguments.agree else speed)(arguments, Path(folder))


if __name__ == "__main__":
    main()
