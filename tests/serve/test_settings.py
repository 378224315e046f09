"""Deployment files: what is wrong is told before anything starts."""

from __future__ import annotations

import re
import socket
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from tests.conftest import REPOSITORY

from rayonale.serve import running
from rayonale.serve.settings import Service

OPEN = {"open_on_loopback": True}
POLICY = {"name": "p", "model": "tinyworld"}


@pytest.mark.parametrize("file", sorted((REPOSITORY / "configs/serve").glob("*.yaml")), ids=str)
def test_deployment_files_are_valid(file: Path) -> None:
    running.read(str(file))


def test_the_documented_deployment_file_is_valid(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs/serving.md").read_text()
    (block,) = re.findall(r"^    applications:\n(?:    .*\n)+", text, re.MULTILINE)
    (tmp_path / "file.yaml").write_text(textwrap.dedent(block))
    read = running.read(str(tmp_path / "file.yaml"))
    assert [each["name"] for each in read["applications"]] == ["policies", "oracle"]


def test_a_stop_waits_longer_than_ray_serve_does(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def delete(name: str) -> None:
        asked.append(name)
        if len(asked) < 3:
            raise TimeoutError("not after 60 s")

    monkeypatch.setattr("ray.serve.delete", delete)
    running._delete("policies")
    assert asked == ["policies"] * 3


def test_an_application_that_asks_another_is_ended_before_it() -> None:
    oracle = {"name": "oracle", "args": {"oracle": {"model": "models:/oracle@champion"}}}
    policies = {"name": "policies", "args": {"oracle": {"application": "oracle"}}}
    alone: dict[str, Any] = {"name": "alone", "args": {"oracle": None}}
    found = running._askers_first([oracle, policies, alone])
    assert found == ("policies", "alone", "oracle")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"access": OPEN}, "nothing to serve"),
        ({"policies": [POLICY]}, "access"),
        ({"policies": [POLICY], "access": {}}, "expected keys"),
        ({"policies": [POLICY], "access": OPEN | {"keys_file": "k"}}, "not both"),
        ({"policies": [POLICY, POLICY], "access": OPEN}, "repeat"),
        ({"policies": [POLICY | {"name": "a b"}], "access": OPEN}, "name"),
        (
            {"policies": [POLICY | {"name": "endpoint"}], "access": OPEN},
            "cannot be called",
        ),
        ({"policies": [POLICY | {"trust_remote_code": True}], "access": OPEN}, "trust_remote_code"),
        (
            {
                "policies": [POLICY | {"scale": {"max_replicas": 2}, "engine": {"replicas": 2}}],
                "access": OPEN,
            },
            "exclude each other",
        ),
        (
            {
                "policies": [POLICY | {"scale": {"min_replicas": 3, "max_replicas": 2}}],
                "access": OPEN,
            },
            "min_replicas 3 > max_replicas 2",
        ),
        (
            {
                "policies": [
                    POLICY
                    | {"model": "models:/m@champion", "adapters": [{"name": "a", "path": "x"}]}
                ],
                "access": OPEN,
            },
            "name a version",
        ),
        (
            {"policies": [POLICY | {"challenger": {"model": "m", "share": 1.0}}], "access": OPEN},
            "share",
        ),
    ],
)
def test_wrong_arguments_are_told(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Service.model_validate(args)


def test_a_service_without_keys_listens_on_loopback_only(tmp_path: Path) -> None:
    value = yaml.safe_load((REPOSITORY / "configs/serve/tinyworld.yaml").read_text())
    file = tmp_path / "open.yaml"
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.com"):
        value["http_options"]["host"] = host
        file.write_text(yaml.safe_dump(value))
        with pytest.raises(ValueError, match="has no keys and would listen on"):
            running.read(str(file))
    for host in ("127.0.0.1", "localhost", "::1"):
        value["http_options"]["host"] = host
        file.write_text(yaml.safe_dump(value))
        running.read(str(file))


def test_a_port_that_somebody_has_is_refused() -> None:
    """HAProxy would share it, and a stranger would get some of the requests."""
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        port = stranger.getsockname()[1]
        running._require_free("127.0.0.1", port)
        stranger.listen()
        with pytest.raises(ValueError, match=f"something listens at 127.0.0.1:{port} already"):
            running._require_free("127.0.0.1", port)
