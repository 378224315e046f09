"""From any name of a model or run down to the raw file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rayonale.lineage.ancestry import Ancestor, trace

ROOT = Path(__file__).resolve().parents[2]


def _names(node: Ancestor) -> dict[str, Ancestor]:
    found = {node.name: node}
    for parent in node.parents:
        for name, ancestor in _names(parent).items():
            found.setdefault(name, ancestor)
    return found


@pytest.mark.parametrize(
    "target",
    ["{uri}", "{uri}/model", "small-dpo", "small-dpo/1", "models:/small-dpo/1", "{run}", "{id}"],
)
def test_every_name_of_a_model_leads_to_the_same_tree(small_recipe: Any, target: str) -> None:
    runs, outputs = small_recipe
    manifest = outputs["dpo"].manifest
    target = target.format(
        uri=outputs["dpo"].uri,
        run=manifest["mlflow_run_id"],
        id="models:/" + manifest["registered_model"]["model_id"],
    )
    tree = trace(target, runs)
    assert tree.registered_model == "small-dpo/1"
    parents = {p.role: p for p in tree.parents}
    assert {role: p.name for role, p in parents.items()} == {"rows": "rationales", "model": "sft"}
    raw = _names(tree)["pairs"].raw_inputs[0]
    assert raw["uri"].endswith("pairs.jsonl")
    assert len(raw["sha256"]) == 64
    assert "tinyworld/rationale_general" in parents["rows"].prompts


def test_a_deleted_folder_is_told_from_mlflow(small_recipe: Any, tmp_path: Path) -> None:
    runs, outputs = small_recipe
    folder = Path(outputs["pairs"].uri)
    shutil.move(folder, tmp_path / "gone")
    try:
        pairs = _names(trace(outputs["dpo"].uri, runs))["pairs"]
    finally:
        shutil.move(tmp_path / "gone", folder)
    assert pairs.note.startswith("folder is gone")
    assert pairs.raw_inputs[0]["sha256"] == outputs["pairs"].manifest["raw_inputs"][0]["sha256"]


def test_an_execution_shows_its_stages(small_recipe: Any) -> None:
    from rayonale.lineage import tracking

    runs, outputs = small_recipe
    client = tracking.client_of(tracking.default_uri(runs))
    parent = client.get_run(outputs["sft"].manifest["mlflow_run_id"]).data.tags
    tree = trace(parent["mlflow.parentRunId"], runs)
    assert {p.name for p in tree.parents} == {"pairs", "rationales", "sft", "dpo"}


@pytest.mark.parametrize("target", ["small-dop", "models:/smal-dpo/1", "0" * 32, "runs/nothing"])
def test_unknown_things_are_told_with_what_is_near(small_recipe: Any, target: str) -> None:
    with pytest.raises(ValueError, match=r"no such|not registered"):
        trace(target, small_recipe[0])


def test_the_command_prints_the_tree_and_json(small_recipe: Any) -> None:
    runs, outputs = small_recipe
    command = [sys.executable, "jobs/show_lineage.py", outputs["dpo"].uri, "--runs", runs]
    shown = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    sha256 = outputs["pairs"].manifest["raw_inputs"][0]["sha256"]
    for told in (
        "model small-dpo/1",
        "raw file",
        sha256,
        "tinyworld/rationale_general",
        "loss.name=dpo",
    ):
        assert told in shown
    printed = subprocess.run([*command, "--json"], cwd=ROOT, check=True, capture_output=True)
    assert {p["name"] for p in json.loads(printed.stdout)["parents"]} == {"rationales", "sft"}


def test_the_command_tells_an_unknown_name_in_words(small_recipe: Any) -> None:
    command = [sys.executable, "jobs/show_lineage.py", "small-dop", "--runs", small_recipe[0]]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "did you mean 'small-dpo'" in done.stderr
    assert "Traceback" not in done.stderr
