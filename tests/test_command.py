"""Command lines are made from the settings that recipes use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rayonale import command, stages, storage

REPOSITORY = Path(__file__).resolve().parent.parent


def test_flags_reach_the_settings_and_the_stage_runs(tmp_path: Path, ray_session: None) -> None:
    output = command.run_from_flags(
        "tinyworld_pairs", ["--size", "5", "--flip_rate", "0.5", "--out", str(tmp_path)]
    )
    assert output.manifest["settings"]["size"] == 5
    assert output.manifest["settings"]["flip_rate"] == 0.5
    raw = Path(output.uri, "raw", "pairs-00000.jsonl").read_text().splitlines()
    assert len(raw) == 5
    pairs = command.run_from_flags(
        "ingest",
        [
            "--reads_raw",
            output.uri,
            "--out",
            str(tmp_path),
            "--splits.train",
            "0.5",
            "--splits.validation",
            "0.25",
            "--splits.test",
            "0.25",
        ],
    )
    assert storage.count(pairs.rows) == 5
    assert pairs.manifest["inputs"]["raw"]["fingerprint"] == output.fingerprint


def test_a_wrong_flag_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.stage_main("tinyworld_pairs", ["--size", "0"])
    assert "--size: Input should be greater than or equal to 1" in str(caught.value)
    with pytest.raises(SystemExit):
        command.stage_main("tinyworld_pairs", ["--sise", "3"])
    assert "sise" in capsys.readouterr().err


@pytest.mark.parametrize("kind", sorted(stages.REGISTRY))
def test_every_stage_has_a_command_line(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.stage_main(kind, ["--help"])
    assert caught.value.code == 0
    told = capsys.readouterr().out
    for name in [*stages.get(kind).settings.model_fields, "out"]:
        assert f"--{name}" in told


def test_a_job_is_a_command(tmp_path: Path) -> None:
    found = subprocess.run(
        [
            sys.executable,
            "jobs/run_recipe.py",
            "configs/rdpo/tinyworld.yaml",
            "--dry-run",
            "stages.world.size=17",
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "size: 17" in found.stdout


@pytest.mark.parametrize("kind", sorted(stages.REGISTRY))
def test_every_stage_has_a_job(kind: str) -> None:
    jobs = [path.read_text("utf-8") for path in (REPOSITORY / "jobs").glob("*.py")]
    assert sum(f'stage_main("{kind}")' in text for text in jobs) == 1
