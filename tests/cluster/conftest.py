"""A real head node of this test session: its own ports, folder and token."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Head:
    """A running head: where jobs are submitted, and the environment that holds its token."""

    dashboard: str
    environment: dict[str, str]
    folder: Path

    def submit(
        self, *command: str, working_dir: Path = ROOT, options: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """`ray job submit`, waited for; stdout and stderr together."""
        ray = Path(sys.executable).parent / "ray"
        submit = [str(ray), "job", "submit", "--address", self.dashboard]
        return subprocess.run(
            [*submit, "--working-dir", str(working_dir), *options, "--", *command],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )


def _free_ports(count: int) -> list[int]:
    listeners = [socket.socket() for _ in range(count)]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """A head that the tests of jobs share."""
    with started({}) as found:
        yield found


@contextmanager
def started(more: Mapping[str, str]) -> Iterator[Head]:
    """A head with token authentication and its dashboard on loopback; ended by its processes.

    Args:
        more: of `ray start`'s environment.
    """
    folder = Path(tempfile.mkdtemp(prefix="rn"))  # short: sockets' paths have a limit
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    environment = {
        **{k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "NO_COLOR": "1",
        **more,
    }
    gcs, dashboard, agent, grpc, client, metrics, environments = _free_ports(7)
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block"]
    command += ["--node-ip-address=127.0.0.1", f"--port={gcs}", f"--dashboard-port={dashboard}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--dashboard-agent-grpc-port={grpc}", f"--ray-client-server-port={client}"]
    command += [f"--metrics-export-port={metrics}", f"--runtime-env-agent-port={environments}"]
    command += ["--num-cpus=2", f"--object-store-memory={512 * 2**20}", "--disable-usage-stats"]
    command += [f"--temp-dir={folder / 'ray'}", "--min-worker-port=0", "--max-worker-port=0"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=folder
        )
    found = Head(f"http://127.0.0.1:{dashboard}", environment, folder)
    try:
        _wait_until_up(found, process)
        yield found
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_up(head: Head, process: subprocess.Popen[bytes]) -> None:
    ray = Path(sys.executable).parent / "ray"
    for _ in range(30):
        assert process.poll() is None, (head.folder / "log").read_text()[-3_000:]
        listed = subprocess.run(
            [str(ray), "job", "list", "--address", head.dashboard],
            env=head.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if listed.returncode == 0:
            return
    raise AssertionError(f"no head after 30 attempts: {listed.stderr[-2_000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the head and what it started, and nothing else (`ray stop` ends every session)."""
    tree = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(tree, timeout=20)
    for left in alive:
        left.kill()
    process.kill()
    process.wait()
