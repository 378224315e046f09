"""A local server that speaks OpenAI's protocol as a script tells it: it may limit, fail, garble."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rayonale.generate.endpoint import EndpointOptions

Answer = tuple[int, Any, dict[str, str]]  # status, body, headers


def said(text: str, **more: Any) -> Answer:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop", **more}
    usage = {"prompt_tokens": 10, "completion_tokens": 4}
    return 200, {"choices": [choice], "usage": usage}, {}


class Server:
    """Answers by `script(number of the request, its body)`; remembers what it was sent."""

    def __init__(self) -> None:
        self.script: Callable[[int, dict[str, Any]], Answer] = lambda n, body: said("ok")
        self.gave: list[Answer] = []
        self.seen: list[tuple[float, dict[str, Any], str | None]] = []
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    number = len(outer.seen)
                    outer.seen.append((time.monotonic(), body, self.headers["authorization"]))
                status, told, headers = gave = outer.script(number, body)
                outer.gave.append(gave)
                raw = told.encode() if isinstance(told, str) else json.dumps(told).encode()
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(raw))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/v1"


def options(server: Server, **more: Any) -> EndpointOptions:
    given = {"url": server.url, "served_model": "judge", "backoff_s": 0.01, **more}
    return EndpointOptions.model_validate(given)
