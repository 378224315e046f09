"""`ray job submit` for real: a head with token authentication takes a recipe."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from ray._private.runtime_env.packaging import create_package
from tests.cluster.conftest import ROOT, Head

from rayonale import storage

RECIPE = "configs/rdpo/tinyworld.yaml"
SHRUNK = ("stages.world.size=60", "--stage", "pairs")


def _copy(folder: Path) -> Path:
    """The repository's files as a submitter has them, without history, runs and environment."""
    left = shutil.ignore_patterns(".*", "runs", "tests", "docs", "__pycache__")
    return Path(shutil.copytree(ROOT, folder / "copy", ignore=left))


def _changed(folder: Path) -> Path:
    copy = _copy(folder)
    with (copy / "platform" / "rayonale" / "recipe.py").open("a") as file:
        file.write("\nimport sys\nprint('SUBMITTED CODE RUNS', file=sys.stderr)\n")
    return copy


def test_a_recipe_runs(head: Head, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    done = head.submit("python", "jobs/run_recipe.py", RECIPE, *SHRUNK, f"runs={runs}")
    assert done.returncode == 0, done.stdout[-4_000:]
    manifests = list(runs.glob("rdpo-tinyworld/pairs/*/manifest.json"))
    assert len(manifests) == 1
    assert storage.read_json(str(manifests[0]))["rows_out"] > 50


def test_other_code_than_the_installed_is_refused(head: Head, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    command = ("python", "jobs/run_recipe.py", RECIPE, *SHRUNK, f"runs={runs}")
    done = head.submit(*command, working_dir=_changed(tmp_path))
    assert done.returncode != 0
    assert "the submitted code differs from the package installed on the node" in done.stdout
    assert "Traceback" not in done.stdout
    assert not list(runs.glob("*/*/*/manifest.json"))


def test_the_submitted_code_runs_when_asked_for(head: Head, tmp_path: Path) -> None:
    options = ("--runtime-env-json", '{"env_vars": {"PYTHONPATH": "platform"}}')
    command = ("python", "jobs/run_recipe.py", RECIPE, *SHRUNK, f"runs={tmp_path / 'runs'}")
    done = head.submit(*command, working_dir=_changed(tmp_path), options=options)
    assert done.returncode == 0, done.stdout[-4_000:]
    assert "SUBMITTED CODE RUNS" in done.stdout
    assert "code differs" not in done.stdout


def test_without_the_token_nothing_is_taken(head: Head) -> None:
    ray = Path(sys.executable).parent / "ray"
    environment = {k: v for k, v in head.environment.items() if not k.startswith("RAY_AUTH")}
    environment["HOME"] = str(head.folder)  # where a token of the user's own would be
    done = subprocess.run(
        [str(ray), "job", "list", "--address", head.dashboard],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode != 0
    assert "401" in done.stdout + done.stderr or "token" in (done.stdout + done.stderr).lower()


def test_the_package_is_small(tmp_path: Path) -> None:
    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True, excludes=[])
    assert package.stat().st_size < 10 * 2**20
    tops = {name.split("/")[0] for name in zipfile.ZipFile(package).namelist()}
    assert {"platform", "jobs", "configs"} <= tops
    assert not tops & {".venv", "runs", ".git", "tests"}
