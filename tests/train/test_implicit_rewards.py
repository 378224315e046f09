"""Implicit rewards of a policy through the `score` stage, with real models on Ray."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rayonale import storage
from rayonale.enrich import rewards
from rayonale.enrich.rewards import ScoreSettings
from rayonale.stages import StageContext, StageOutput
from rayonale.train.batches import collate
from rayonale.train.examples import Encoding, encode
from rayonale.train.policy import Policy, load_model

PAIR = ("chosen", "rejected")


@pytest.fixture(scope="module")
def other(micro_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A policy near the small model."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("policy") / "model"
    shutil.copytree(micro_model, folder)
    model = AutoModelForCausalLM.from_pretrained(micro_model)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=draw))
    model.save_pretrained(folder)
    return str(folder)


def logprobs(model: str, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    encoding = Encoding(model, PAIR)
    tokenizer = encoding.tokenizer()
    batch = collate([encode(tokenizer, row, encoding)[0] for row in rows], PAIR)  # type: ignore[misc]
    with torch.no_grad():
        found = Policy(load_model(model, "float32", 2_048)).eval()(**batch.inputs("cpu"))
    return {name: found[batch.sequence[name]] for name in PAIR}


def context(out: Path, rows: str, **inputs: StageOutput) -> StageContext:
    run = SimpleNamespace(log_metrics=lambda values, step=None: None)
    reads = {"rows": StageOutput("rows", rows, "abc"), **inputs}
    return StageContext("score", str(out), reads, None, "f" * 32, "c" * 32, run)  # type: ignore[arg-type]


def output(name: str, model: str, **manifest: Any) -> StageOutput:
    return StageOutput(name, model, "m", "external", manifest)


def test_by_two_forward_passes(
    ray_session: None, micro_model: str, other: str, rows: str, tmp_path: Path
) -> None:
    """β is the policy's own; a row that is too long for one pass is left out of both."""
    reads = {
        "policy": output("dpo", other, settings={"loss": {"name": "dpo", "beta": 0.5}}),
        "reference": output("sft", micro_model),
    }
    settings = ScoreSettings(scorer={"kind": "implicit", "max_length": 60})
    result = rewards.run(context(tmp_path, rows, **reads), settings)
    found = list(storage.read_rows(str(tmp_path / "rows")))
    left_out = list(storage.read_rows(str(tmp_path / "rejects")))
    assert result.rows_in == 64 == len(found) + len(left_out)
    assert {row["reason"] for row in left_out} == {"over_long"}
    own, base = logprobs(other, found), logprobs(micro_model, found)
    for name in PAIR:
        wanted = (0.5 * (own[name] - base[name])).tolist()
        assert [row[f"reward_{name}"] for row in found] == pytest.approx(wanted, abs=1e-3)
        assert [row[f"rewards_{name}"] for row in found] == [
            [row[f"reward_{name}"]] for row in found
        ]
    assert found[0]["reward_scorer"].endswith("beta=0.5")


def test_what_is_missing_is_told(rows: str, micro_model: str, tmp_path: Path) -> None:
    settings = ScoreSettings(scorer={"kind": "implicit"})
    with pytest.raises(ValueError, match="need the roles policy and reference"):
        rewards.run(context(tmp_path, rows), settings)
    reads = {"policy": output("sft", micro_model), "reference": output("sft", micro_model)}
    with pytest.raises(ValueError, match="beta: the policy's loss has none"):
        rewards.run(context(tmp_path, rows, **reads), settings)
    one = ScoreSettings(scorer={"kind": "implicit", "beta": 1.0}, columns=("prompt",))
    with pytest.raises(ValueError, match="columns: found prompt; implicit rewards are of chosen"):
        rewards.run(context(tmp_path, rows, **reads), one)
