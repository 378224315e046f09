"""The page that sets runs side by side: what differs, paired differences, aligned answers."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.report.realistic import recipe, write_stage

from rayonale import storage
from rayonale.report.compare import compare, sections
from rayonale.report.compare.measured import Quantity, difference, measured
from rayonale.report.compare.runs import Comparison, open_runs
from rayonale.report.compare.settings import ABSENT, UNSET


def as_run(folder: Path, name: str, change: dict[str, dict[str, Any]] | None = None) -> str:
    """A realistic recipe's stages as `<runs>/<name>/<stage>/<fingerprint>`, with a report.

    Args:
        change: stage → keys of its manifest's settings that this run has otherwise.
    """
    flat, runs = folder / f"flat-{name}", folder / "runs" / name
    found = recipe(flat, pairs=120)
    write_stage(flat, "report", "report", {"stages": found}, settings={"title": name})
    for place in sorted(flat.iterdir()):
        manifest = json.loads((place / "manifest.json").read_text())
        target = runs / place.name / manifest["fingerprint"][:16]
        target.parent.mkdir(parents=True)
        shutil.move(place, target)
    for file in runs.glob("*/*/manifest.json"):
        manifest = json.loads(file.read_text())
        manifest["settings"] |= (change or {}).get(manifest["name"], {})
        for read in manifest["inputs"].values():
            for one in read if isinstance(read, list) else [read]:
                one["uri"] = str(runs / one["name"] / one["fingerprint"][:16])
        file.write_text(json.dumps(manifest))
    return str(runs)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """A run, and one whose DPO had another beta and learning rate, whose judge lost a prompt."""
    folder = tmp_path_factory.mktemp("compare")
    first = as_run(folder, "first")
    other = as_run(folder, "other", {
        "dpo": {"loss": {"name": "dpo", "beta": 0.5}, "learning_rate": 1e-4},
        "sft": {"dtype": "bfloat16"},
    })  # fmt: skip
    return open_runs([first, other])


def numbers(comparison: Comparison) -> dict[str, Any]:
    return {section.id: section.numbers for section in sections(comparison)}


def test_only_settings_that_differ_are_shown(two: Comparison) -> None:
    shown = {table["stage"]: table["rows"] for table in numbers(two)["settings"]}
    assert shown == {
        "dpo": [
            {"key": "learning_rate", "values": ["0.0005", "0.0001"]},
            {"key": "loss.beta", "values": ["0.1", "0.5"]},
        ],
        "sft": [{"key": "dtype", "values": [UNSET, "bfloat16"]}],
    }


def test_answers_of_one_prompt_are_aligned(two: Comparison) -> None:
    """Every card holds the same prompt's answer of every policy of every run."""
    (found,) = [section for section in sections(two) if section.id == "answers"]
    cards = found.data["answers"]
    assert len(cards) == min(60, found.numbers["common"]) > 5
    for run in two.runs:
        (stage,) = [s for s in run.of_kind("samples") if s.name == "samples_dpo"]
        told = {row["id"]: row["responses"][0] for row in storage.read_rows(stage.rows)}
        for card in cards:
            (text,) = [t for t in card["texts"] if t["label"] == f"{run.label}: dpo"]
            assert text["text"] == told[card["id"]]
            assert text["facts"].startswith("exact rubric ")
    assert {len(card["texts"]) for card in cards} == {8}  # four policies, two runs


def test_paired_difference_by_hand() -> None:
    """Common prompts b, c: differences 0.5 and 1.0, mean 0.75; a and d are in one run only.

    Two of the four sign flips (both kept, both turned) are as far from 0: p = 2 / 4.
    """
    first = {"a": 1.0, "b": 0.5, "c": 0.0}
    other = {"b": 1.0, "c": 1.0, "d": 0.0}
    found = difference(first, other)
    assert found is not None
    assert (found.value, found.units, found.p_value) == (0.75, 2, 0.5)
    assert (found.low, found.high) == (0.5, 1.0)
    assert difference({"a": 1.0}, {"b": 1.0}) is None


def test_equal_runs_do_not_differ(two: Comparison) -> None:
    """Both runs judged the same answers: every difference is 0, on all prompts."""
    rows = [row for row in numbers(two)["results"]["measured"] if row["by"] == "exact rubric"]
    assert {row["what"] for row in rows} == {"Win rate", "Score"}
    for row in rows:
        (apart,) = row["differences"]
        assert (apart["value"], apart["p_value"]) == (0.0, 1.0)
        assert apart["units"] == row["estimates"][0]["prompts"]
        assert row["estimates"][0] == row["estimates"][1]


def test_measured_values_are_the_stage_own(two: Comparison) -> None:
    """The mean over prompts is the win rate that the stage told."""
    (stage,) = two.runs[0].of_kind("win_rates")
    values = measured(stage)
    for entry in stage.manifest["details"]["win_rates"]:
        by = "exact rubric" if entry["judge_kind"] == "scorer" else "judge tinyworld"
        units = values[Quantity("Win rate", f"{entry['a']} against {entry['b']}", by, share=True)]
        assert sum(units.values()) / len(units) == pytest.approx(entry["value"])


def test_page_is_whole_and_safe(two: Comparison) -> None:
    page = compare(two)
    assert "2 runs of first and other" in page
    for title in ("Settings that differ", "Results", "Training curves", "Answers side by side",
                  "Code and data that differ", "Time and cost"):  # fmt: skip
        assert f">{title}</h2>" in page
    assert "dpo: training loss" in page
    assert not re.search(r"(src|href)=\"https?:", page)


def test_code_and_raw_data_that_differ(tmp_path: Path) -> None:
    runs = [as_run(tmp_path, name) for name in ("one", "two")]
    (file,) = (tmp_path / "runs" / "two" / "pairs").glob("*/manifest.json")
    manifest = json.loads(file.read_text())
    manifest["raw_inputs"][0]["sha256"] = "cd" * 32
    manifest["code_version"] = "0" * 32
    file.write_text(json.dumps(manifest))
    found = numbers(open_runs(runs))["fingerprints"]
    assert [(row["stage"], row["what"]) for row in found] == [
        ("pairs", "code"),
        ("pairs", "raw file pairs.jsonl"),
    ]
    assert found[1]["values"] == ["abababababab", "cdcdcdcdcdcd"]


def test_stage_names_that_differ_are_aligned_by_kind(tmp_path: Path) -> None:
    """One run's only training is called `dpo`, the other's `policy`: they are the same stage."""
    ends = []
    for name, called in (("a", "dpo"), ("b", "policy")):
        rows = write_stage(tmp_path / name, "pairs", "ingest")
        ends.append(write_stage(tmp_path / name, called, "train", {"rows": rows}).uri)
    comparison = open_runs(ends)
    assert [stage.name for stage in comparison.stages] == ["pairs", "dpo / policy"]
    assert all(None not in stage.outputs for stage in comparison.stages)


def test_a_training_that_runs_share_is_not_drawn(tmp_path: Path) -> None:
    """Two DPOs from one SFT: the SFT's curve would lie on itself."""
    curves = {"curves": {"step": [0, 1], "loss": [2.0, 1.0]}}
    sft = write_stage(tmp_path / "r", "sft", "train", details=curves)
    ends = [
        write_stage(tmp_path / name, "dpo", "train", {"model": sft}, details=curves).uri
        for name in ("a", "b")
    ]
    page = compare(open_runs(ends))
    assert "dpo: training loss" in page
    assert "sft: training loss" not in page


def test_costs_by_hand(tmp_path: Path) -> None:
    """3,600 s on a machine with 2 GPUs are 2 GPU-hours, 5.0 at 2.5 each."""
    ends = [
        write_stage(tmp_path / name / "dpo", "x", "train", seconds=seconds, gpus=2).uri
        for name, seconds in (("a", 3_600.0), ("b", 1_800.0))
    ]
    totals = numbers(open_runs(ends, price=2.5))["time"]["totals"]
    assert [(t["gpu_hours"], t["cost"]) for t in totals] == [(2.0, 5.0), (1.0, 2.5)]


def test_bad_input_is_told(two: Comparison, tmp_path: Path) -> None:
    first = two.runs[0].uri
    with pytest.raises(ValueError, match="expected two or more"):
        open_runs([first])
    with pytest.raises(ValueError, match="are the same run"):
        open_runs([first, first])
    with pytest.raises(ValueError, match=r"no such folder; near it: .*/first"):
        open_runs([first, first.replace("/first", "/frist")])
    with pytest.raises(ValueError, match=r"holds runs of 2 recipe\(s\); name one"):
        open_runs([first, storage.parent(first)])
    with pytest.raises(ValueError, match="expected 2 different ones"):
        open_runs([run.uri for run in two.runs], ["x", "x"])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="not a run"):
        open_runs([first, str(empty)])
    begun = tmp_path / "runs" / "begun" / "sft" / "0123"
    (begun / "work").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no stage has finished \(sft began\)"):
        open_runs([first, str(begun.parent.parent)])
    with pytest.raises(ValueError, match="has not finished"):
        open_runs([first, str(begun)])
    lone = write_stage(tmp_path / "x" / "lists", "f", "tinyworld_lists")
    with pytest.raises(ValueError, match="no kind of stage in common"):
        open_runs([first, lone.uri])


def test_a_stage_that_one_run_lacks_is_told(two: Comparison, tmp_path: Path) -> None:
    alone = write_stage(tmp_path / "short", "pairs", "ingest")
    comparison = open_runs([two.runs[0].uri, alone.uri], ["long", "short"])
    told = {entry["stage"]: entry["runs"] for entry in numbers(comparison)["runs"]["alone"]}
    assert "pairs" not in told
    assert told["dpo"] == ["long"]
    assert ABSENT not in str(numbers(comparison)["settings"])
