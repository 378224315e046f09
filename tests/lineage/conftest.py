"""A small recipe's worth of stages, really tracked: pairs → sft → dpo."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rayonale import storage
from rayonale.lineage import fingerprints, tracking
from rayonale.stages import StageOutput


@pytest.fixture(autouse=True)
def _default_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def run_stage(  # noqa: PLR0917
    tracker: tracking.Tracker,
    name: str,
    kind: str,
    inputs: dict[str, Any],
    settings: dict[str, Any],
    work: Callable[[tracking.Run], dict[str, Any]],
) -> StageOutput:
    """What `stages.run_stage` does around a stage, without a registered kind."""
    fingerprint = fingerprints.of([name, settings])
    out = storage.join(tracker.runs, tracker.name, name, fingerprint[:16])
    with tracker.stage_run(
        name=name,
        kind=kind,
        settings=settings,
        inputs=inputs,
        fingerprint=fingerprint,
        code_version="c" * 32,
        out=out,
    ) as run:
        manifest: dict[str, Any] = {
            "name": name,
            "kind": kind,
            "fingerprint": fingerprint,
            "code_version": "c" * 32,
            "settings": settings,
            "inputs": {
                role: {
                    "name": o.name,
                    "uri": o.uri,
                    "fingerprint": o.fingerprint,
                    "kind": o.kind,
                    "mlflow_run_id": o.manifest.get("mlflow_run_id"),
                }
                for role, o in inputs.items()
            },
            "external": {},
            "rows_in": 10,
            "rows_out": 8,
            "rejects": {"invalid": {"missing_field": 2}},
            "metrics": {},
            "details": {},
            "prompts": {},
            "raw_inputs": [],
            "seconds": 2.0,
            "mlflow_run_id": run.run_id,
        }
        manifest.update(work(run))
        if kind == "train":
            storage.write_json(storage.join(out, storage.MODEL, "config.json"), {"name": name})
        run.finish(manifest)
        storage.write_json(storage.join(out, storage.MANIFEST), manifest)
    return StageOutput(name, out, fingerprint, kind, manifest)


def make_small_recipe(folder: Path) -> dict[str, StageOutput]:
    """Three stages under `<folder>/runs`, one of them with 300 steps of a curve."""
    raw = folder / "pairs.jsonl"
    raw.write_text('{"chosen": "a"}\n')

    def train(run: tracking.Run) -> dict[str, Any]:
        for step in range(300):
            run.log_metrics({"loss": 1 / (step + 1)}, step=step)
        return {"metrics": {"final_loss": 0.1}}

    with tracking.Tracker("small", str(folder / "runs"), "A test.", "small.yaml", ("a.b=1",)) as t:
        pairs = run_stage(
            t, "pairs", "ingest", {}, {"sources": [{"uri": str(raw)}]},
            lambda run: {"raw_inputs": [fingerprints.of_file(str(raw))]},
        )  # fmt: skip
        rationales = run_stage(
            t, "rationales", "rationales", {"rows": pairs}, {"n": 1},
            lambda run: {"prompts": fingerprints.of_prompts(["tinyworld/rationale_general"])},
        )  # fmt: skip
        sft = run_stage(
            t, "sft", "train", {"rows": pairs}, {"loss": {"name": "sft"}, "model": "tinyworld"},
            train,
        )  # fmt: skip
        dpo = run_stage(
            t, "dpo", "train", {"rows": rationales, "model": sft}, {"loss": {"name": "dpo"}}, train
        )
        t.note_reuse("pairs", pairs.manifest)
    return {"pairs": pairs, "rationales": rationales, "sft": sft, "dpo": dpo}


@pytest.fixture(scope="session")
def small_recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, Any]]]:
    """The runs folder and the outputs of the small recipe."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        folder = tmp_path_factory.mktemp("small")
        yield str(folder / "runs"), make_small_recipe(folder)


def wait_for(happened: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until something has happened; fails when it does not in time."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"not within {seconds:.0f} s"
        time.sleep(0.2)
