"""A running service for tests: deployments on the tests' Ray session, and how to call it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from rayonale.serve import keys, running


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Called:
    """A service and a key to it."""

    def __init__(self, url: str, key: str, folder: Path) -> None:
        self.url, self.key, self.folder = url, key, folder
        self.http = httpx.Client(
            base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=120
        )

    def post(self, path: str, **body: Any) -> Any:
        """The JSON of an answer that must be good."""
        answer = self.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def chat(self, text: str = "Name two birds.", **more: Any) -> Any:
        """An answer to one message."""
        messages = [{"role": "user", "content": text}]
        asked = {"model": "tinyworld", "messages": messages, "max_tokens": 24, **more}
        return self.post("/v1/chat/completions", **asked)


@contextmanager
def served(folder: Path, applications: list[dict[str, Any]]) -> Iterator[Called]:
    """Applications of a deployment file; `keys_file` of each is filled in."""
    from ray import serve

    key = keys.add(folder / "keys.txt", "tests")
    for application in applications:
        application["args"].setdefault("access", {"keys_file": str(folder / "keys.txt")})
    file = folder / "serve.yaml"
    port = free_port()
    value = {
        "proxy_location": "EveryNode",
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": applications,
    }
    file.write_text(yaml.safe_dump(value))
    running.start(str(file))
    try:
        yield Called(f"http://127.0.0.1:{port}", key, folder)
    finally:
        serve.shutdown()


def wait_for(what: Any, seconds: float, message: str) -> Any:
    """What a function gives as soon as it is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.25)
    raise AssertionError(f"not within {seconds:g} s: {message}")
