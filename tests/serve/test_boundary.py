"""What stands before the endpoints, around an application that echoes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from rayonale.serve import boundary, keys
from rayonale.serve.boundary import Boundary
from rayonale.serve.metrics import Metrics
from rayonale.serve.settings import Access, Limits

JSON = {"content-type": "application/json"}


async def echo(request: Request) -> Response:
    """How long the body is, after as many milliseconds as the query says."""
    await asyncio.sleep(int(request.query_params.get("wait", "0")) / 1_000)
    if request.query_params.get("fail"):
        raise RuntimeError("a secret text")
    return JSONResponse({"length": len(await request.body())})


def bounded(access: Access, **limits: Any) -> Boundary:
    """The application behind its boundary."""
    app = Starlette(routes=[Route("/echo", echo, methods=["GET", "POST"]), Route("/health", echo)])
    return Boundary(app, access, Limits(**limits), Metrics())


def call(
    app: Boundary,
    what: Callable[[httpx.AsyncClient], Any],
    client: str = "127.0.0.1",
    base: str = "http://127.0.0.1:8000",
) -> Any:
    """What a client that calls the application from some address gets."""

    async def main() -> Any:
        transport = httpx.ASGITransport(app=app, client=(client, 1), raise_app_exceptions=False)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url=base) as http:
            return await what(http)

    return asyncio.run(main())


OPEN = Access(open_on_loopback=True)


def test_without_keys_only_loopback_callers_by_a_loopback_name() -> None:
    app = bounded(OPEN)

    def status(client: str, base: str) -> int:
        found: httpx.Response = call(app, lambda http: http.get("/echo"), client, base)
        return found.status_code

    assert status("127.0.0.1", "http://127.0.0.1:8000") == 200
    assert status("127.0.0.1", "http://localhost:8000") == 200
    assert status("::1", "http://[::1]:8000") == 200
    assert status("10.0.0.7", "http://127.0.0.1:8000") == 403
    assert status("127.0.0.1", "http://attacker.example") == 403  # DNS rebinding
    assert status("127.0.0.1", "http://127.0.0.1.attacker.example:8000") == 403
    assert status("not-an-address", "http://127.0.0.1") == 403


def test_with_keys_an_address_opens_nothing(tmp_path: Path) -> None:
    key = keys.add(tmp_path / "keys.txt", "alice")
    app = bounded(Access(keys_file=str(tmp_path / "keys.txt")))
    assert call(app, lambda http: http.get("/echo")).status_code == 401
    assert call(app, lambda http: http.get("/health")).status_code == 200
    good = {"authorization": f"Bearer {key}"}
    found = call(app, lambda http: http.get("/echo", headers=good), "10.0.0.7")
    assert found.status_code == 200 and found.headers["x-content-type-options"] == "nosniff"
    refused = call(app, lambda http: http.get("/echo"))
    assert refused.headers["www-authenticate"] == "Bearer"


def test_a_body_is_read_up_to_its_limit_whether_or_not_its_length_is_told() -> None:
    app = bounded(OPEN, body_bytes=1_000)

    async def parts(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"x" * 100

    found = call(app, lambda http: http.post("/echo", content=b"x" * 1_000, headers=JSON))
    assert found.json() == {"length": 1_000}
    for content in (b"x" * 1_001, parts(11)):
        found = call(app, lambda http, c=content: http.post("/echo", content=c, headers=JSON))
        assert found.status_code == 413 and found.json()["error"]["code"] == "body_too_large"


def test_over_the_limit_requests_are_told_to_come_later_and_places_come_free() -> None:
    app = bounded(OPEN, in_flight=2)

    async def many(http: httpx.AsyncClient) -> list[httpx.Response]:
        return list(await asyncio.gather(*(http.get("/echo?wait=100") for _ in range(5))))

    for _ in range(2):
        found = call(app, many)
        assert sorted(answer.status_code for answer in found) == [200, 200, 429, 429, 429]
    late = next(answer for answer in found if answer.status_code == 429)
    assert late.headers["retry-after"] == "1" and late.json()["error"]["type"] == "rate_limit_error"


def test_what_takes_too_long_is_given_up() -> None:
    found = call(bounded(OPEN, timeout_s=0.05), lambda http: http.get("/echo?wait=500"))
    assert found.status_code == 504 and found.json()["error"]["code"] == "timeout"


def test_a_failure_shows_nothing_of_the_inside() -> None:
    found = call(bounded(OPEN), lambda http: http.get("/echo?fail=1"))
    assert found.status_code == 500 and "secret" not in found.text


def test_the_log_has_a_line_a_request_and_no_text(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "rayonale.access"):
        call(bounded(OPEN), lambda http: http.post("/echo", content=b'"private"', headers=JSON))
    (line,) = [json.loads(r.message) for r in caplog.records if r.name == "rayonale.access"]
    assert line["status"] == 200 and line["method"] == "POST" and line["id"].startswith("req-")
    assert "private" not in caplog.text


def test_a_client_that_does_not_read_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundary, "_END_S", 0.1)

    async def endless(_: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            while True:
                yield b"x"

        return StreamingResponse(pieces())

    async def main() -> list[str]:
        inner = Starlette(routes=[Route("/x", endless)])
        app = Boundary(inner, OPEN, Limits(timeout_s=0.2), Metrics())
        sent: list[str] = []

        async def send(message: Any) -> None:
            sent.append(message["type"])
            if message["type"] == "http.response.body":
                await asyncio.sleep(3_600)  # as a server does whose client takes nothing

        async def receive() -> Any:
            await asyncio.sleep(3_600)

        scope = {
            "type": "http", "method": "GET", "path": "/x", "raw_path": b"/x", "query_string": b"",
            "root_path": "", "client": ("127.0.0.1", 1), "headers": [(b"host", b"127.0.0.1")],
            "asgi": {"version": "3.0", "spec_version": "2.4"},
        }  # fmt: skip
        await asyncio.wait_for(app(scope, receive, send), 10)
        return sent

    # The start, the first piece, and the end that it does not take either.
    assert asyncio.run(main()) == ["http.response.start", *["http.response.body"] * 2]
