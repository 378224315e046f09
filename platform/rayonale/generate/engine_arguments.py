"""What an engine is started with: its device, vLLM's arguments, and which models can share it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from rayonale.generate.settings import EngineOptions, Runner

# Keys of config.json that may differ between models that share one engine.
_LOOSE = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache")


def on_gpu() -> bool:
    """Whether this process sees a CUDA device."""
    import torch

    return bool(torch.cuda.is_available())


def architecture(path: str) -> str:
    """What two models must share to run in one engine: configuration and tokenizer (16 hex)."""
    folder = Path(path)
    if not folder.is_dir():
        return f"hub:{path}"
    digest = hashlib.sha256()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in _LOOSE}
    digest.update(json.dumps(kept, sort_keys=True).encode())
    for name in ("tokenizer.json", "tokenizer.model"):
        if (folder / name).is_file():
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def engine_arguments(
    model: str, options: EngineOptions, gpu: bool, runner: Runner = "generate"
) -> dict[str, Any]:
    """Arguments of vLLM's `EngineArgs`.

    Raises:
        ValueError: an option that this kind of device ignores.
    """
    arguments: dict[str, Any] = {
        "model": model,
        "dtype": options.dtype,
        "tensor_parallel_size": options.tensor_parallel_size,
        "max_model_len": options.max_model_len,
        "max_num_seqs": options.max_num_seqs,
        "enforce_eager": not gpu if options.enforce_eager == "auto" else options.enforce_eager,
        "enable_prefix_caching": (
            gpu or runner == "pooling"
            if options.prefix_caching == "auto"
            else options.prefix_caching
        ),
        "generation_config": "vllm",  # the model's own must not alter the sampling
        "disable_log_stats": True,
        "structured_outputs_config": {"backend": "xgrammar"},
        "seed": 0,
    }
    if runner == "pooling":
        arguments |= {"runner": "pooling", "convert": "classify"}
    if options.max_num_batched_tokens is not None:
        arguments["max_num_batched_tokens"] = options.max_num_batched_tokens
    if options.kv_cache_gib is not None:
        arguments["kv_cache_memory_bytes"] = int(options.kv_cache_gib * 2**30)
    if gpu:
        if options.gpu_memory_utilization is not None:
            arguments["gpu_memory_utilization"] = options.gpu_memory_utilization
        return arguments
    if options.gpu_memory_utilization is not None:
        raise ValueError(
            f"gpu_memory_utilization={options.gpu_memory_utilization}: this engine runs on CPU, "
            "where it has no effect; set kv_cache_gib"
        )
    arguments["dtype"] = "float32" if options.dtype == "auto" else options.dtype
    arguments.setdefault("kv_cache_memory_bytes", 2**30)
    arguments["enable_chunked_prefill"] = False
    tokens = options.max_num_batched_tokens or 8_192
    arguments["max_num_batched_tokens"] = max(tokens, options.max_model_len)
    return arguments
