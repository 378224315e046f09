"""A stream's pieces on their way from an engine to the endpoint, on one machine.

As messages of a Ray Serve call they take most of a millisecond of the cores each. Here the call
only begins the stream and ends it: Ray Serve goes on choosing replicas, counting what they do, and
telling of those that die. The pieces go through a socket that every replica has to the endpoint's
process, as lines of JSON. It is a file in a folder of this user's alone; a replica on another
machine does not find it, and its pieces come as messages of the same call.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import shutil
import socket
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple

from rayonale.serve.messages import Begun, Piece, Refused, Relayed, TokenLogprob
from rayonale.serve.served_model import ServedModel

log = logging.getLogger("rayonale")

_PLACE = "/tmp"  # a socket's path must be short, which other temporary folders need not be
_PREFIX = "rayonale-pieces-"
_LATE_S = 5  # lines are written before a call ends; they come before its end, or at once after it


class _Line(NamedTuple):
    """What came of a stream: who answers, with the first of them, and pieces."""

    begun: Begun | None
    pieces: list[Piece]


class Lost(Exception):
    """A stream's pieces did not all come."""


class Lines(asyncio.Protocol):
    """A replica's connection, at the endpoint."""

    def __init__(self, boxes: dict[int, asyncio.Queue[Any]]) -> None:
        self._boxes, self._rest = boxes, b""

    def data_received(self, data: bytes) -> None:
        """Hand lines on to the streams that wait for them."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                number, begun, pieces = json.loads(line)
                came = _Line(_begun(begun), [_piece(each) for each in pieces])
            except (ValueError, TypeError) as error:  # of one stream: it misses a line then
                log.warning("a line of a stream cannot be read: %s", error)
                continue
            box = self._boxes.get(number)
            if box is not None:  # else its client has gone
                box.put_nowait(came)


class Inbox:
    """The endpoint's end: begins streams and takes what comes of them."""

    def __init__(self) -> None:
        self._boxes: dict[int, asyncio.Queue[Any]] = {}
        self._numbers = itertools.count()
        self._path: asyncio.Task[str | None] | None = None
        self._folder: Path | None = None
        self._server: asyncio.Server | None = None

    async def received(self, handle: Any, ask: Any) -> AsyncGenerator[Any, None]:
        """A stream of a deployment that has `stream` and `relayed` (`policy.py`).

        It gives Begun, then lists of pieces, or Refused; it is cancelled when nobody takes it any
        more.

        Raises:
            Lost: its connection broke; else what the call raises.
        """
        if self._path is None:
            self._path = asyncio.create_task(self._listen())
        path = await asyncio.shield(self._path)
        way = _streamed(handle, ask) if path is None else self._relayed(handle, ask, path)
        async with aclosing(way) as came:
            async for each in came:
                yield each

    async def _relayed(self, handle: Any, ask: Any, path: str) -> AsyncGenerator[Any, None]:
        """What comes through the socket, and as messages of the call."""
        number, box = next(self._numbers), asyncio.Queue[Any]()
        self._boxes[number] = box
        response = handle.options(method_name="relayed", stream=True).remote(ask, path, number)
        call = asyncio.create_task(_handed_on(response, box))
        call.add_done_callback(box.put_nowait)
        taken, lines, ended = 0, 0, False
        try:
            while not ended or taken < lines:
                try:
                    async with asyncio.timeout(_LATE_S if ended else None):
                        came = await box.get()
                except TimeoutError:
                    raise Lost(f"{lines - taken} of {lines} lines did not come") from None
                if came is call:
                    call.result()  # raises what ended it
                    ended = True
                elif isinstance(came, _Line):
                    taken += 1
                    if came.begun is not None:
                        yield came.begun
                    yield came.pieces
                elif not isinstance(came, Relayed):  # refused, or of a replica on another machine
                    yield came
                elif came.lines is None:
                    raise Lost("the connection broke")
                else:
                    lines = came.lines
        except (asyncio.CancelledError, GeneratorExit):
            response.cancel()
            raise
        finally:
            del self._boxes[number]
            call.cancel()
            call.add_done_callback(_looked_at)

    async def _listen(self) -> str | None:
        """Path of the socket, which is made when it is first asked for; None where none can be."""
        _clear()
        try:
            # For this user alone.
            self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_PLACE))
            path = str(self._folder / "socket")
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(lambda: Lines(self._boxes), path)
        except OSError as error:
            log.warning("streams come as messages, for there is no socket: %s", error)
            return None
        return path

    def close(self) -> None:
        """Remove the socket."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _clear() -> None:
    """Remove what endpoints that were killed have left of theirs."""
    for folder in Path(_PLACE).glob(f"{_PREFIX}*"):
        with socket.socket(socket.AF_UNIX) as asked:
            try:
                asked.connect(str(folder / "socket"))
            except ConnectionRefusedError:  # nobody listens any more
                shutil.rmtree(folder, ignore_errors=True)
            except OSError:  # another user's, or just being made
                continue


class Outbox:
    """A replica's end: connections to the endpoints that asked it for streams."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    async def to(self, path: str) -> asyncio.StreamWriter | None:
        """A connection to an endpoint; None when it is on another machine."""
        if path not in self._alive():
            try:
                found = await asyncio.open_unix_connection(path)
            except OSError:
                return None
            if path in self._alive():
                found[1].close()  # another stream was as quick
            else:
                self._open[path] = found
        return self._open[path][1]

    def _alive(self) -> dict[str, Any]:
        """The connections, without those whose endpoint has gone."""
        for path, (reader, writer) in list(self._open.items()):
            if reader.at_eof() or writer.is_closing():
                writer.close()
                del self._open[path]
        return self._open

    async def relay(self, stream: Any, path: str, number: int) -> AsyncGenerator[Any, None]:
        """Send what a stream gives; gives how it ended, or all of it where no socket is found."""
        to = await self.to(path)
        if to is None:
            async for each in stream:
                yield each
            return
        lines, begun = 0, None
        async for each in stream:
            if isinstance(each, Refused):
                yield each
                return
            if isinstance(each, Begun):
                begun = each
                continue
            to.write(_line(number, begun, each))
            if not await _drained(to):
                yield Relayed(None)
                return
            lines, begun = lines + 1, None
        yield Relayed(lines)


async def _drained(to: asyncio.StreamWriter) -> bool:
    """Whether what was written is on its way; waits while too much is not."""
    if to.is_closing():
        return False
    try:
        await to.drain()
    except ConnectionError:
        return False
    return True


async def _handed_on(response: Any, box: asyncio.Queue[Any]) -> None:
    """Messages of a call, as they come."""
    async for each in response:
        box.put_nowait(each)


async def only(response: Any) -> Any:
    """What a streaming call gives, which is one thing.

    A call that does not stream would do, but by gRPC its cancellation is lost at times: Ray Serve
    takes it for a replica that cannot be reached, and sends the request again.
    """
    found = None
    try:
        async for each in response:
            found = each
    except asyncio.CancelledError:
        response.cancel()
        raise
    return found


def _looked_at(task: asyncio.Task[Any]) -> None:
    """What a stream ends with that nobody takes any more need not be told."""
    if not task.cancelled():
        task.exception()


async def _streamed(handle: Any, ask: Any) -> AsyncGenerator[Any, None]:
    """The stream as messages of a Ray Serve call."""
    response = handle.options(method_name="stream", stream=True).remote(ask)
    try:
        async for each in response:
            yield each
    except (asyncio.CancelledError, GeneratorExit):
        response.cancel()
        raise


def _line(number: int, begun: Begun | None, pieces: list[Piece]) -> bytes:
    model = begun and (begun.model.ref, begun.model.path, begun.model.version)
    who = begun and (model, begun.model.fingerprint, begun.prompt_tokens)
    told = [(p.index, p.text, p.tokens, _logprobs(p), p.finish_reason) for p in pieces]
    return json.dumps((number, who, told), separators=(",", ":")).encode() + b"\n"


def _logprobs(piece: Piece) -> Any:
    if piece.logprobs is None:
        return None
    return [(each.text, each.logprob, each.top) for each in piece.logprobs]


def _begun(told: Any) -> Begun | None:
    if told is None:
        return None
    (ref, path, version), fingerprint, prompt_tokens = told
    return Begun(ServedModel(ref, path, version, fingerprint), prompt_tokens)


def _piece(told: Any) -> Piece:
    index, text, tokens, logprobs, finish = told
    if logprobs is not None:
        logprobs = tuple(
            TokenLogprob(text, value, tuple((t, v) for t, v in top))
            for text, value, top in logprobs
        )
    return Piece(index, text, tokens, logprobs, finish)
