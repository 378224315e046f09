"""Fixtures that tests share: one Ray session, one set of engines, the small model, real data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parent.parent

os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A machine that does something else beside must not fail a test.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray session of 2 CPUs for all tests."""
    import ray

    from rayonale import cluster

    cluster.connect(num_cpus=2)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def engines(ray_session: None) -> Iterator[Any]:
    """Shared vLLM engines: a test that asks for equal settings gets the running one."""
    from rayonale.generate.pool import Engines

    with Engines() as shared:
        yield shared


@pytest.fixture(scope="session")
def tinyworld_model() -> Path:
    """Folder of the embedded base model."""
    from rayonale import tinyworld

    return Path(tinyworld.base_model_path())


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real public samples; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("RAYONALE_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real public samples not found at {folder} (set RAYONALE_TEST_DATA)")
    return folder


@pytest.fixture()
def server() -> Iterator[Any]:
    """A scripted endpoint; see `tests/generate/endpoint_server.py`."""
    from tests.generate.endpoint_server import Server

    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()
