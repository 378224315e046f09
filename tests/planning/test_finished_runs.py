"""Rates out of finished stages' manifests, by hand; what is not alike is not taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.planning.test_estimates import FLOW, answers

from rayonale import stages, storage
from rayonale.planning.flow import Estimate, Flow
from rayonale.planning.outlook import Outlook, Session
from rayonale.planning.rates import RateBook


def finished(tmp_path: Path, kind: str, settings: dict[str, Any], **manifest: Any) -> None:
    """A finished stage on this machine, with all its settings."""
    full = stages.get(kind).settings.model_validate(settings).model_dump(mode="json")
    storage.write_json(
        f"{tmp_path}/r/it/{kind}/manifest.json",
        {
            "kind": kind,
            "machine": "here",
            "settings": full,
            "inputs": {},
            "details": {},
            **manifest,
        },
    )


def estimate(
    tmp_path: Path, kind: str, settings: dict[str, Any], reads: dict[str, Any] | None = None
) -> Estimate:
    """From what is under the runs folder alone."""
    stage = stages.get(kind)
    session = Session(RateBook(str(tmp_path), "here", may_probe=False))
    outlook = Outlook("it", kind, session, reads or {"rows": FLOW})
    assert stage.estimate is not None
    return stage.estimate(outlook, stage.settings.model_validate(settings))


def test_generation(tmp_path: Path) -> None:
    """Then 50 rows in 40 s: 20 engines' start, 15 of the pass, in it 5,000 tokens at 500 a second.

    So a pass takes 5 s by itself, a row (40 − 20 − 15) / 50 = 0.1 s; 100 tokens a completion; of
    the 50 rows that had one 10 were dropped. Now 100 of 150 rows are asked.
    """
    finished(
        tmp_path, "rationales", {}, rows_in=50, rows_out=40, seconds=40.0,
        metrics={"tokens_per_second": 500.0, "generated_tokens": 5_000, "rows_resumed": 0,
                 "generation_seconds": 15.0, "engine_start_seconds": 20.0,
                 "rationales": 45, "rationales_empty": 5},
    )  # fmt: skip
    found = estimate(tmp_path, "rationales", {})
    assert found.parts == pytest.approx(
        {"engine start": 20, "pass": 5, "generation": 100 * 100 / 500, "rows": 15}
    )
    assert found.flow.rows["train"] == pytest.approx(100 * 0.8)  # 10 of 50 asked rows dropped
    assert found.flow.rows["test"] == 40
    assert found.basis[0] == "speed as it/rationales was"
    other = estimate(tmp_path, "rationales", {"sampling": {"max_tokens": 99}})
    assert other.seconds is None


def test_training(tmp_path: Path) -> None:
    """Then 30 s for two seeds, of which 20 were steps: 5 s of start and export each."""
    metrics = {"tokens_per_second": 2_000.0}
    details = {"seeds": {"0": {"train_seconds": 12.0}, "1": {"train_seconds": 8.0}}}
    finished(
        tmp_path, "train", {"loss": "sft", "seeds": [0, 1]}, rows_in=9, rows_out=9, seconds=30.0,
        metrics=metrics, details=details,
    )  # fmt: skip
    found = estimate(tmp_path, "train", {"loss": "sft"})
    assert found.parts["start and export"] == 5
    assert found.parts["steps"] == pytest.approx(100 * 30 / 2_000)
    assert found.parts["validation"] == 0  # in the start of the finished one
    assert estimate(tmp_path, "train", {"loss": {"name": "dpo", "beta": 0.1}}).seconds is None
    assert estimate(tmp_path, "train", {"loss": "sft", "dtype": "bfloat16"}).seconds is None


def test_scoring(tmp_path: Path) -> None:
    """Then 12 s, of which 2 of start: 40,000 tokens in 10 s. Margins take it, too."""
    finished(
        tmp_path, "reference_logprobs", {}, rows_in=9, rows_out=9, seconds=12.5,
        metrics={"seconds": 12.0, "start_seconds": 2.0, "computed_tokens": 40_000.0},
    )  # fmt: skip
    found = estimate(tmp_path, "reference_logprobs", {})
    assert found.parts == pytest.approx({"start": 2.5, "forward": 150 * 40 / 4_000})
    reads = {"rows": FLOW, "policies": [Flow()]}
    assert estimate(tmp_path, "margins", {}, reads).parts["start"] == pytest.approx(5)


def test_judging(tmp_path: Path) -> None:
    """Then 30 of 40 pairs were asked about, twice, in 6 s: 600 tokens each way, at 150 a second."""
    judge = {"kind": "llm", "template": "tinyworld/judge_pairwise"}
    facts = {"judge": "llm", "tokens_per_second": 150.0, "generated_tokens": 600,
             "generation_seconds": 6.0, "rows_per_second": 5.0, "equal_responses": 10}  # fmt: skip
    finished(
        tmp_path, "win_rates", {"judges": [judge]}, rows_in=40, rows_out=40, seconds=9.0,
        metrics={}, details={"judges": [facts]},
    )  # fmt: skip
    found = estimate(tmp_path, "win_rates", {"judges": [judge]}, {"samples": [answers(80.0)] * 2})
    assert found.tokens["generated"] == pytest.approx(80 * 0.75 * 2 * 10)
    assert found.parts["llm: generation"] == pytest.approx(1_200 / 150)
    assert found.parts["llm: pass"] == pytest.approx(2)


def test_resumed_passes_and_other_machines_do_not_count(tmp_path: Path) -> None:
    metrics = {"tokens_per_second": 500.0, "generated_tokens": 5_000, "rows_resumed": 7,
               "generation_seconds": 15.0, "rationales": 50, "rationales_empty": 0}  # fmt: skip
    same = {"rows_in": 50, "rows_out": 50, "seconds": 40.0}
    finished(tmp_path, "rationales", {}, metrics=metrics, **same)
    assert estimate(tmp_path, "rationales", {}).seconds is None
    finished(tmp_path, "rationales", {}, metrics=metrics | {"rows_resumed": 0}, **same)
    assert estimate(tmp_path, "rationales", {}).seconds is not None
    finished(tmp_path, "rationales", {}, metrics=metrics | {"rows_resumed": 0}, **same,
             machine="there")  # fmt: skip
    assert estimate(tmp_path, "rationales", {}).seconds is None
