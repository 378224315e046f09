"""ray_cluster.yaml is what Ray's launcher takes, and as closed as it says."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
    return found


def test_rays_schema_takes_it(config: dict[str, Any]) -> None:
    validate_config(prepare_config(copy.deepcopy(config)))


def test_the_check_is_a_check(config: dict[str, Any]) -> None:
    config["available_node_types"]["gpu_worker"]["min_worker"] = 1
    with pytest.raises(Exception, match="min_worker"):
        validate_config(prepare_config(config))


def test_the_head_has_no_gpu_and_workers_scale_from_nothing(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"].get("GPU", 0) == 0
    worker = types["gpu_worker"]
    assert (worker["min_workers"], worker["resources"]["GPU"]) == (0, 8)


def test_every_ray_start_asks_for_a_token_and_the_dashboard_is_on_loopback(
    config: dict[str, Any],
) -> None:
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in start for start in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]


def test_what_is_copied_to_the_nodes_is_there(config: dict[str, Any]) -> None:
    for source in config["file_mounts"].values():
        assert source.startswith("~") or (ROOT / source).exists(), source
