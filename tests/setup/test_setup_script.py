"""requirements/setup.sh tells in one line what it cannot do."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("sh", "dirname", "cat", "cksum", "grep", "rm", "mkdir", "touch", "env")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout without .venv, and a folder of tools without any Python."""
    shutil.copytree(ROOT / "requirements", tmp_path / "repo" / "requirements")
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "repo")
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / "bin" / tool).symlink_to(found)
    return tmp_path


def _run(checkout: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(checkout / "repo" / "requirements" / "setup.sh")],
        env={"PATH": str(checkout / "bin"), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_missing_python_is_told_in_one_line(checkout: Path) -> None:
    done = _run(checkout)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "Python 3.11 with venv is needed" in done.stderr


def test_another_python_is_told_in_one_line(checkout: Path) -> None:
    python = checkout / "bin" / "python3"
    python.write_text("#!/bin/sh\nexit 1\n")  # as 3.12 answers the question for 3.11
    python.chmod(0o755)
    done = _run(checkout)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert not (checkout / "repo" / ".venv").exists()


def test_an_unknown_backend_is_told(checkout: Path) -> None:
    done = _run(checkout, BACKEND="tpu")
    assert (done.returncode, done.stderr) == (1, "setup: BACKEND=tpu: expected cpu or gpu\n")


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_what_is_installed_is_left_alone(checkout: Path, backend: str) -> None:
    repo = checkout / "repo"
    python = repo / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(os.environ.get("PYTHON", "/bin/sh"))
    inputs = f"cat requirements/{backend}.txt pyproject.toml | cksum"
    checksum = subprocess.check_output(["sh", "-c", inputs], cwd=repo, text=True).strip()
    stamp = f"{backend} {checksum} {repo.resolve()}\n"
    (repo / ".venv" / ".installed").write_text(stamp)
    done = _run(checkout, BACKEND=backend)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{backend} backend" in done.stdout
    assert "already installed" in done.stdout
    with (repo / "requirements" / f"{backend}.txt").open("a") as lock:
        lock.write("another==1\n")
    assert "already installed" not in _run(checkout, BACKEND=backend).stdout


def test_a_driver_decides(checkout: Path) -> None:
    smi = checkout / "bin" / "nvidia-smi"
    smi.write_text("#!/bin/sh\nexit 0\n")
    smi.chmod(0o755)
    python = checkout / "bin" / "python3"  # a Python that answers, and makes no environment
    python.write_text('#!/bin/sh\n[ "$1" = -c ]\n')
    python.chmod(0o755)
    done = _run(checkout)
    assert done.returncode != 0
    assert "gpu backend (an NVIDIA driver is there)" in done.stdout + done.stderr
