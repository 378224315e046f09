"""`/v1/chat/completions` and `/v1/completions`."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from rayonale.serve import answers
from rayonale.serve.answers import Writer
from rayonale.serve.boundary import Noted
from rayonale.serve.errors import ApiError
from rayonale.serve.kept import Keeper
from rayonale.serve.messages import Answer, Begun, Piece
from rayonale.serve.metrics import Metrics
from rayonale.serve.protocol import ChatRequest, CompletionRequest
from rayonale.serve.routing import Router
from rayonale.serve.settings import Limits

log = logging.getLogger("rayonale")


class Completions:
    """Answers requests for text.

    Args:
        keeper: keeps a share of the requests; None keeps none.
    """

    def __init__(
        self, router: Router, limits: Limits, metrics: Metrics, keeper: Keeper | None
    ) -> None:
        self._router, self._limits = router, limits
        self._metrics, self._keeper = metrics, keeper

    async def __call__(self, request: ChatRequest | CompletionRequest, noted: Noted) -> Response:
        """The answer, whole or as a stream of events.

        Raises:
            ApiError: the request is refused.
        """
        if request.samples > self._limits.samples:
            field = "best_of" if request.best_of else "n"
            told = f"{field}: at most {self._limits.samples} samples of one request"
            raise ApiError(400, "too_many_samples", told, field)
        if request.best_of is not None and not self._router.has_oracle:
            raise ApiError(400, "no_oracle", "best_of: this service has no oracle", "best_of")
        route = self._router.route(request.model)
        noted.model = request.model
        ask = request.ask(route.adapter)
        kind: answers.Kind = "chat" if isinstance(request, ChatRequest) else "completion"
        writer = Writer(kind, noted.id, request.model, request.stream)
        if request.stream:
            return await self._streamed(request, noted, writer)
        answer = await self._router.generate(route, ask, request.user)
        return JSONResponse(await self._whole(request, noted, writer, answer))

    async def _whole(
        self,
        request: ChatRequest | CompletionRequest,
        noted: Noted,
        writer: Writer,
        answer: Answer,
    ) -> dict[str, Any]:
        tokens = sum(piece.tokens for piece in answer.pieces)
        _note(noted, answer.begun, tokens)
        pieces, rewards, more = list(answer.pieces), None, {}
        if request.best_of is not None:
            scored = await self._router.score([_said(request, piece.text) for piece in pieces])
            self._metrics.rewards(self._router.oracle_name, scored.rewards)
            order = sorted(range(len(pieces)), key=lambda i: -scored.rewards[i])[: request.n]
            more = {"rewards": list(scored.rewards), "oracle": scored.model.told}
            pieces, rewards = [pieces[i] for i in order], [scored.rewards[i] for i in order]
        if self._keeper is not None and isinstance(request, ChatRequest):
            texts = [piece.text for piece in pieces]
            self._keeper.keep(request, texts, rewards, answer.begun.model.told)
        return writer.whole(answer.begun, pieces, tokens, rewards, more)

    async def _streamed(
        self, request: ChatRequest | CompletionRequest, noted: Noted, writer: Writer
    ) -> Response:
        route = self._router.route(request.model)
        received = self._router.stream(route, request.ask(route.adapter), request.user)
        # A request that is refused is told so by its status, so the stream begins with the first.
        begun = await anext(received)
        assert isinstance(begun, Begun)
        return _Events(self._events(request, noted, writer, begun, received), received)

    async def _events(
        self,
        request: ChatRequest | CompletionRequest,
        noted: Noted,
        writer: Writer,
        begun: Begun,
        received: AsyncIterator[Begun | list[Piece]],
    ) -> AsyncGenerator[bytes, None]:
        tokens, texts = 0, [""] * request.samples
        head = writer.opening(begun, request.samples)
        try:
            async for pieces in received:
                assert isinstance(pieces, list)
                if noted.first_token_s is None:
                    noted.first_token_s = time.monotonic() - noted.begun
                for piece in pieces:
                    if piece.finish_reason == "error":
                        raise ApiError(400, "refused_by_engine", "the engine refused the request")
                    tokens += piece.tokens
                    texts[piece.index] += piece.text
                # One message for all that came: what a message costs, it costs once.
                events = [writer.event(begun, piece) for piece in pieces]
                yield b"".join([head, *events])
                head = b""
                _note(noted, begun, tokens)
        except ApiError as error:
            noted.code = error.code
            yield answers.event(error.body())  # what the clients of OpenAI raise an error for
            return
        except Exception:  # without a word the client would take what came for the whole
            log.exception("request %s failed", noted.id)
            broken = ApiError(500, "internal_error", f"request {noted.id} failed; see the log")
            noted.code = broken.code
            yield answers.event(broken.body())
            return
        options = request.stream_options
        last = b""
        if options is not None and options.include_usage:
            last = writer.usage_event(begun, tokens)
        if self._keeper is not None and isinstance(request, ChatRequest):
            self._keeper.keep(request, texts, None, begun.model.told)
        yield head + last + answers.DONE


class _Events(StreamingResponse):
    """Events of a stream, which ends in the engine too when the client has gone.

    Starlette leaves what it streams as it is when a client goes that does not read: the engine
    would go on until Python collects it.
    """

    def __init__(self, events: AsyncGenerator[bytes, None], received: Any) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._given = (events, received)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            for each in self._given:
                await each.aclose()


def _note(noted: Noted, begun: Begun, tokens: int) -> None:
    noted.version = begun.model.told
    noted.prompt_tokens, noted.tokens = begun.prompt_tokens, tokens


def _said(request: ChatRequest | CompletionRequest, text: str) -> list[Any]:
    """A conversation for the oracle."""
    if isinstance(request, ChatRequest):
        prompt = [message.message() for message in request.messages]
    else:
        prompt = [{"role": "user", "content": request.prompt}]
    return [*prompt, {"role": "assistant", "content": text}]
