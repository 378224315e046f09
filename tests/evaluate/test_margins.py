"""Margins of real models, against the definition worked out with Transformers alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from tests.report.realistic import pair_rows, write_stage

from rayonale import storage
from rayonale.evaluate.margins import MarginSettings, margin, margins_of, require_same_tokens, run
from rayonale.records import PAIR
from rayonale.stages import StageContext, StageOutput


def test_margin_by_hand() -> None:
    # policy moved chosen by +3 and rejected by −1 nats: Δ = 4, β·Δ = 0.4
    assert margin((-7.0, -9.0), (-10.0, -8.0), 0.1) == pytest.approx(0.4)
    assert margin((-7.0, -9.0), (-7.0, -9.0), 0.1) == 0.0


def test_summary_by_hand() -> None:
    entry = margins_of("p", 0.1, [-1.0, 0.0, 2.0, 3.0])
    assert entry["accuracy"] == pytest.approx(2.5 / 4)  # a margin of zero counts half
    assert (entry["mean"], entry["quantile_50"], entry["pairs"]) == (1.0, 1.0, 4)
    assert entry["sorted"] == sorted(entry["sorted"]) and len(entry["sorted"]) == 4
    assert len(margins_of("p", 0.1, [float(k) for k in range(5_000)])["sorted"]) == 200
    # one of 100 values far out: 1 % is further than two standard deviations away
    assert margins_of("p", 0.1, [0.0] * 99 + [50.0])["heavy"] == pytest.approx(0.01)
    with pytest.raises(ValueError, match="no pair was measured"):
        margins_of("p", 0.1, [])


@pytest.fixture()
def moved(tmp_path: Path, tinyworld_model: Path) -> Path:
    """The base model with its last norm scaled: another policy."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tinyworld_model, dtype=torch.float32)
    with torch.no_grad():
        model.model.norm.weight.mul_(1.1)
    folder = tmp_path / "moved"
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tinyworld_model).save_pretrained(folder)
    return folder


def logprob(folder: Path, row: dict[str, Any], response: str) -> float:
    """Sum over the response's tokens, from the whole logits."""
    import torch
    from transformers import AutoModelForCausalLM

    from rayonale.data.tokens import encode_prompt, encode_response, load_tokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = load_tokenizer(str(folder))
    prompt = encode_prompt(tokenizer, row["prompt"])
    answer = encode_response(tokenizer, row["prompt"], row[response])
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    return sum(
        logits[len(prompt) - 1 + at, token].item() for at, token in enumerate(answer)
    )  # fmt: skip


def test_margins_of_two_policies(
    tmp_path: Path, moved: Path, tinyworld_model: Path, ray_session: None
) -> None:
    rows = [{**row, "split": "test" if at % 2 else "train"} for at, row in enumerate(pair_rows(24))]
    rows[1]["chosen"][0]["content"] = "word " * 3_000  # longer than the limit
    pairs = write_stage(tmp_path, "pairs", "ingest", rows=(rows, PAIR))
    policies = [
        StageOutput("base", str(tinyworld_model), "0" * 32),
        StageOutput("moved", str(moved), "1" * 32,
                    manifest={"settings": {"loss": {"name": "dpo", "beta": 0.5}}}),
    ]  # fmt: skip
    where = StageContext(
        "margins", str(tmp_path / "margins"), {"rows": pairs, "policies": policies}, None,
        "f" * 32, "c" * 32, run=None,  # type: ignore[arg-type]
    )  # fmt: skip
    settings = MarginSettings(model=str(tinyworld_model), limit=10)
    result = run(where, settings)
    found = {(row["policy"], row["id"]): row for row in storage.read_rows(where.out + "/rows")}
    tests = sorted((row for row in rows if row["split"] == "test"), key=lambda row: row["id"])[:10]
    long = rows[1] in tests
    assert len(found) == 2 * (10 - long)
    assert result.rejects == ({"limit": {"over_long": 3}} if long else {})
    base, other = result.details["margins"]
    assert (base["policy"], base["accuracy"], base["mean"]) == ("base", 0.5, 0.0)
    assert (other["beta"], base["beta"]) == (0.5, 0.1)
    for row in [row for row in tests if row is not rows[1]][:3]:
        delta = (
            logprob(moved, row, "chosen") - logprob(tinyworld_model, row, "chosen")
            - logprob(moved, row, "rejected") + logprob(tinyworld_model, row, "rejected")
        )  # fmt: skip
        assert math.isclose(found[("moved", row["id"])]["margin"], 0.5 * delta, abs_tol=2e-3)
    # again with its work still there: the same
    assert run(where, settings).details == result.details


def test_no_pair_of_the_split_is_told(tmp_path: Path) -> None:
    pairs = write_stage(tmp_path, "pairs", "ingest", rows=(pair_rows(5), PAIR))
    where = StageContext(
        "margins", str(tmp_path / "margins"), {"rows": pairs, "policies": []}, None,
        "f" * 32, "c" * 32, run=None,  # type: ignore[arg-type]
    )  # fmt: skip
    with pytest.raises(ValueError, match="no pairs of split 'validation'"):
        run(where, MarginSettings(split="validation"))


def test_policies_that_see_other_tokens_are_refused() -> None:
    require_same_tokens("dpo", {"a": "1", "b": "2"}, {"b": "2", "c": "3"})
    with pytest.raises(ValueError, match="dpo: its tokens of pair b are not the reference's"):
        require_same_tokens("dpo", {"a": "1", "b": "9"}, {"b": "2", "c": "3"})
