"""What every request passes before anything else sees it: key, size, queue; and its log line.

Plain ASGI around the FastAPI application. Of a request, the log has who, what, how long and how
much; never a text.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rayonale.serve.errors import ApiError
from rayonale.serve.keys import Keys
from rayonale.serve.metrics import Metrics
from rayonale.serve.settings import Access, Limits

log = logging.getLogger("rayonale.access")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# These show nothing of anyone's: a probe and a browser have no key.
OPEN = frozenset({"/", "/health", "/ready"})
_BODY_S = 30.0  # seconds that a client may take to send its body
_END_S = 5.0  # and to take the end of an answer that is broken off
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]", "::1")


@dataclass
class Noted:
    """What a request's log line and metrics tell; endpoints fill in the middle.

    Attributes:
        key: the name of the caller's key.
        prompt_tokens, tokens: read and drawn.
        first_token_s: seconds to a stream's first token.
    """

    id: str
    begun: float
    key: str = ""
    model: str = ""
    version: str = ""
    prompt_tokens: int = 0
    tokens: int = 0
    first_token_s: float | None = None
    status: int = 0
    code: str = ""


class Boundary:
    """ASGI middleware; `scope["state"]["noted"]` is the request's `Noted`.

    A request whose client has gone is cancelled by Ray Serve.
    """

    def __init__(self, app: App, access: Access, limits: Limits, metrics: Metrics) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._open = access.open_on_loopback
        self._keys = None if self._open else Keys(access.keys_file, access.keys_env)
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        noted = Noted(f"req-{uuid.uuid4().hex[:24]}", time.monotonic())
        scope.setdefault("state", {})["noted"] = noted
        started = False

        async def told(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                noted.status = message["status"]
                message["headers"] = [*message.get("headers", []), *_headers(noted)]
            await send(message)

        counted = _path(scope) not in OPEN
        try:
            self._let_in(scope, noted, counted)
            self._in_flight += counted
            self._metrics.in_flight(self._in_flight)
            try:
                receive = await self._body(scope, receive)
                async with asyncio.timeout(self._limits.timeout_s):
                    await self._app(scope, receive, told)
            finally:
                self._in_flight -= counted
                self._metrics.in_flight(self._in_flight)
        except ApiError as error:
            await self._refuse(error, noted, told, started)
        except TimeoutError:
            late = ApiError(504, "timeout", f"not finished in {self._limits.timeout_s:g} s")
            await self._refuse(late, noted, told, started)
        except asyncio.CancelledError:
            noted.status, noted.code = 499, "client_gone"
            raise
        except Exception:
            logging.getLogger("rayonale").exception("request %s failed", noted.id)
            broken = ApiError(500, "internal_error", f"request {noted.id} failed; see the log")
            await self._refuse(broken, noted, told, started)
        finally:
            if counted or noted.status >= 400:
                self._note(scope, noted)

    @staticmethod
    async def _refuse(error: ApiError, noted: Noted, send: Send, started: bool) -> None:
        noted.code = error.code
        if started:  # an answer is under way; its end tells that it is not whole
            with suppress(TimeoutError):  # a client that does not read is not waited for
                async with asyncio.timeout(_END_S):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        body = error.encoded()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        if error.status == 429:
            headers.append((b"retry-after", b"1"))
        if error.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await send({"type": "http.response.start", "status": error.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _let_in(self, scope: Scope, noted: Noted, counted: bool) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self._open:
            _check_loopback(scope, headers)
        elif counted:
            noted.key = self._key_of(headers)
        if scope["method"] == "POST":
            kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
            # Also what keeps a web page of elsewhere from posting through its visitor's browser.
            if kind != b"application/json":
                raise ApiError(415, "unsupported_media_type", "expected application/json")
        if counted and self._in_flight >= self._limits.in_flight:
            told = f"{self._in_flight} requests are in flight; try again later"
            raise ApiError(429, "queue_full", told)

    def _key_of(self, headers: dict[bytes, bytes]) -> str:
        assert self._keys is not None
        given = headers.get(b"authorization", b"")
        scheme, _, key = given.partition(b" ")
        if scheme.lower() != b"bearer" or not key:
            raise ApiError(401, "missing_api_key", "expected `Authorization: Bearer <key>`")
        name = self._keys.name_of(key.strip().decode("latin-1"))
        if name is None:
            raise ApiError(401, "invalid_api_key", "this API key is not valid")
        return name

    async def _body(self, scope: Scope, receive: Receive) -> Receive:
        """The body, read up to its limit; what it gives is handed on as one message."""
        limit = self._limits.body_bytes
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return receive
        for name, value in scope["headers"]:
            if name.lower() == b"content-length" and value.isdigit() and int(value) > limit:
                raise ApiError(413, "body_too_large", f"at most {limit} bytes are taken")
        pieces, size, more = [], 0, True
        try:
            async with asyncio.timeout(_BODY_S):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(400, "client_gone", "the body did not come")
                    pieces.append(message.get("body", b""))
                    size += len(pieces[-1])
                    more = message.get("more_body", False)
                    if size > limit:
                        raise ApiError(413, "body_too_large", f"at most {limit} bytes are taken")
        except TimeoutError:
            raise ApiError(408, "body_timeout", f"the body took over {_BODY_S:g} s") from None
        whole: list[MutableMapping[str, Any]] = [
            {"type": "http.request", "body": b"".join(pieces), "more_body": False}
        ]

        async def handed_on() -> MutableMapping[str, Any]:
            return whole.pop() if whole else await receive()

        return handed_on

    def _note(self, scope: Scope, noted: Noted) -> None:
        seconds = time.monotonic() - noted.begun
        route = getattr(scope.get("route"), "path", "other")
        line = {
            "id": noted.id,
            "key": noted.key,
            "method": scope["method"],
            "route": route,
            "status": noted.status,
            "code": noted.code,
            "model": noted.model,
            "version": noted.version,
            "prompt_tokens": noted.prompt_tokens,
            "tokens": noted.tokens,
            "seconds": round(seconds, 4),
            "first_token_s": noted.first_token_s and round(noted.first_token_s, 4),
        }
        log.info("%s", json.dumps({name: value for name, value in line.items() if value}))
        self._metrics.finished(route, noted.model, noted.status, seconds)
        if noted.first_token_s is not None:
            self._metrics.first_token(noted.model, noted.first_token_s)
        self._metrics.tokens(noted.model, noted.prompt_tokens, noted.tokens)


def _path(scope: Scope) -> str:
    """The path below the application's own prefix."""
    path, prefix = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path.removeprefix(prefix) or "/"


def _headers(noted: Noted) -> list[tuple[bytes, bytes]]:
    return [
        (b"x-rayonale-request", noted.id.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"cache-control", b"no-store"),
    ]


def _check_loopback(scope: Scope, headers: dict[bytes, bytes]) -> None:
    """Without keys: only callers on this machine, who mean this machine by the name they call.

    The name matters: a web page whose own name was made to lead here (DNS rebinding) is refused.
    """
    client, _ = scope.get("client") or ("", 0)
    try:
        local = ipaddress.ip_address(client).is_loopback
    except ValueError:
        local = False
    host = headers.get(b"host", b"").decode("latin-1")
    name = host if host.endswith("]") else host.rsplit(":", 1)[0]
    if not local or name.lower() not in _LOCAL_NAMES:
        raise ApiError(403, "loopback_only", "without API keys only loopback callers are let in")
