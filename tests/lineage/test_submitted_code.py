"""A job whose code is not the installed one is told so; see also tests/cluster."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayonale.lineage import submitted_code


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Path]:
    """A working directory with the same package."""
    left = shutil.ignore_patterns("__pycache__", "*.safetensors")
    shutil.copytree(submitted_code.imported(), tmp_path / "platform" / "rayonale", ignore=left)
    submitted_code.hash_of.cache_clear()
    yield tmp_path
    submitted_code.hash_of.cache_clear()


def test_the_same_code_is_accepted(copy: Path) -> None:
    submitted_code.check_driver(copy)


@pytest.mark.parametrize("file", ["recipe.py", "losses/__init__.py"])
def test_a_changed_module_is_refused_with_both_ways_out(copy: Path, file: str) -> None:
    with (copy / "platform" / "rayonale" / file).open("a") as module:
        module.write("\nX = 1\n")
    with pytest.raises(ValueError, match=r"ray up.*PYTHONPATH") as told:
        submitted_code.check_driver(copy)
    assert submitted_code.hash_of(submitted_code.imported()) in str(told.value)


def test_a_new_prompt_counts_and_bytecode_does_not(copy: Path) -> None:
    package = copy / "platform" / "rayonale"
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "x.pyc").write_bytes(b"1")
    submitted_code.check_driver(copy)
    submitted_code.hash_of.cache_clear()
    (package / "prompts" / "new.jinja").write_text("Why?")
    with pytest.raises(ValueError, match="submitted code differs"):
        submitted_code.check_driver(copy)


def test_a_working_directory_without_the_package_is_accepted(tmp_path: Path) -> None:
    submitted_code.check_driver(tmp_path)


def test_a_worker_with_other_code_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "rayonale"):
        monkeypatch.setenv(
            submitted_code.EXPECTED, submitted_code.worker_environment()[submitted_code.EXPECTED]
        )
        submitted_code.warn_if_different()
        assert not caplog.records
        monkeypatch.setenv(submitted_code.EXPECTED, "0" * 16)
        submitted_code.warn_if_different()
    assert "code differs between nodes" in caplog.text
