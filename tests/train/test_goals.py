"""From pairs to a policy that can be asked for a score: relabel, reference, train, on Ray."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rayonale import storage
from rayonale.enrich import goal_prompt, reference, relabel, relabelling
from rayonale.records import PAIR
from rayonale.report.sections.unlearning import lines_of
from rayonale.stages import StageContext, StageOutput
from rayonale.train import stage, watched
from rayonale.train.batches import collate
from rayonale.train.examples import Encoding, encode
from rayonale.train.policy import Policy, load_model
from rayonale.train.settings import TrainSettings

DPO = {"name": "dpo", "beta": 0.1}


def run(made: Any, name: str, out: Path, settings: Any, **reads: Any) -> StageOutput:
    """A stage's output, with the manifest that what reads it looks at."""
    logged = SimpleNamespace(log_metrics=lambda values, step=None: None)
    context = StageContext(name, str(out), reads, None, "f" * 32, "c" * 32, logged)  # type: ignore[arg-type]
    result = made.run(context, settings)
    inputs = {
        role: {"name": read.name, "uri": read.uri, "kind": read.kind}
        for role, read in reads.items()
        if isinstance(read, StageOutput)
    }
    manifest = {
        "name": name, "kind": made.STAGE.kind, "details": result.details, "inputs": inputs,
        "settings": settings.model_dump(mode="json"),
    }  # fmt: skip
    storage.write_json(storage.join(str(out), storage.MANIFEST), manifest)
    return StageOutput(name, str(out), name, made.STAGE.kind, manifest)


def test_from_pairs_to_a_policy_with_goals(
    rows: str, ray_session: None, micro_model: str, tmp_path: Path
) -> None:
    scored = [
        {
            **{name: row[name] for name in PAIR.names},
            "score_chosen": 7.0 + number % 3,
            "score_rejected": 3.0,
        }
        for number, row in enumerate(storage.read_rows(rows))
    ]
    storage.write_rows(str(tmp_path / "pairs/rows"), iter(scored), PAIR)
    pairs = StageOutput("pairs", str(tmp_path / "pairs"), "p", "ingest")
    augmented = run(
        relabel,
        "augmented",
        tmp_path / "ra",
        relabelling.RelabelSettings(model=micro_model),
        rows=pairs,
    )
    told = goal_prompt.GoalPrompt.model_validate(augmented.manifest["details"]["goal_prompt"])
    assert told.place == "system"
    referenced = run(
        reference, "reference", tmp_path / "ref",
        reference.ReferenceSettings(model=micro_model, rows_per_chunk=200), rows=augmented,
    )  # fmt: skip
    settings = TrainSettings(
        model=micro_model, loss=DPO, max_steps=6, batch_pairs=16, learning_rate=1e-3,
        validate_every=3, watched={"split": "validation", "min_score": 3.0},
    )  # fmt: skip
    trained = run(
        stage, "policy", tmp_path / "policy", settings, rows=referenced, watch=[pairs, augmented]
    )
    assert goal_prompt.of_model(trained.model) == told
    card = Path(trained.model, "README.md").read_text()
    assert "| goal scale | 1 to 10 |" in card and "Aim at an overall score" in card
    curves = trained.manifest["details"]["curves"]
    assert curves["terms/preference"][0] == pytest.approx(math.log(2), abs=1e-5)
    assert curves["watch/steps"] == [0, 3, 6]
    held_out = [row for row in scored if row["split"] == "validation"]
    for model, at in ((micro_model, 0), (trained.model, -1)):
        wanted = mean_logprob(model, held_out)
        assert curves["watch/pairs"][at] == pytest.approx(wanted, abs=2e-3)
    lines = lines_of(trained)
    assert [(line["policy"], line["rows"]) for line in lines] == [
        ("policy", "augmented"), ("policy", "pairs"),
    ]  # fmt: skip
    assert lines[1]["change"] == pytest.approx(lines[1]["end"] - lines[1]["base"])
    job = json.loads((tmp_path / "policy/work/seed-0/job.json").read_text())
    assert set(job["watched"]) == {"pairs", "augmented"}


def mean_logprob(model: str, rows: list[dict[str, Any]]) -> float:
    """Of the rejected responses, each in a forward pass of its own."""
    encoding = Encoding(model, ("rejected",))
    tokenizer, policy = encoding.tokenizer(), Policy(load_model(model, "float32", 2_048)).eval()
    found = []
    for row in rows:
        example, _ = encode(tokenizer, row, encoding)
        assert example is not None
        with torch.no_grad():
            found.append(float(policy(**collate([example], ("rejected",)).inputs("cpu")).sum()))
    return sum(found) / len(found)


def test_what_cannot_be_watched(rows: str, micro_model: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reads rewards, and cannot watch"):
        TrainSettings(loss={"name": "bradley_terry"}, watched={})
    context = StageContext("it", str(tmp_path), {}, None, "f", "c", None)  # type: ignore[arg-type]
    encoding = Encoding(micro_model, ("rejected",))
    with pytest.raises(ValueError, match="no rows are read in the role `watch`"):
        watched.of_stage(context, TrainSettings(loss=DPO, watched={}), encoding)
    context.inputs["watch"] = [StageOutput("pairs", rows, "p")]
    high = TrainSettings(loss=DPO, watched={"min_score": 5.0, "split": "train"})
    with pytest.raises(
        ValueError, match="no row of split 'train' with a score_rejected of at least"
    ):
        watched.of_stage(context, high, encoding)
