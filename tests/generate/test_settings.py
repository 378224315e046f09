"""Options and seeds."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from rayonale.generate.engine_arguments import engine_arguments
from rayonale.generate.settings import EngineOptions, Sampling, row_seed


def test_seed_depends_on_each_part_and_on_nothing_else() -> None:
    assert row_seed(0, "a", 0) == row_seed(0, "a", 0)
    others = {row_seed(0, "a", 1), row_seed(1, "a", 0), row_seed(0, "b", 0), row_seed(0, "a", 0)}
    assert len(others) == 4
    assert all(0 <= seed < 2**53 for seed in others)


def test_cpu_engine_never_splits_a_prompt() -> None:
    arguments = engine_arguments("m", EngineOptions(max_model_len=20_000), gpu=False)
    assert arguments["enable_chunked_prefill"] is False
    assert arguments["max_num_batched_tokens"] >= 20_000
    assert arguments["dtype"] == "float32"
    assert arguments["enforce_eager"] is True


def test_gpu_engine_keeps_the_checkpoints_dtype_and_vllms_scheduling() -> None:
    arguments = engine_arguments("m", EngineOptions(gpu_memory_utilization=0.8), gpu=True)
    assert arguments["dtype"] == "auto"
    assert "enable_chunked_prefill" not in arguments
    assert arguments["gpu_memory_utilization"] == 0.8


def test_an_option_without_effect_is_refused() -> None:
    with pytest.raises(ValueError, match="runs on CPU, where it has no effect"):
        engine_arguments("m", EngineOptions(gpu_memory_utilization=0.8), gpu=False)


def test_unknown_and_impossible_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="replica"):
        EngineOptions(replica=2)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="top_p"):
        Sampling(top_p=0.0)
