"""The deployment of a policy: conversations in, text out, by one engine in this process.

The engine steps on a thread of its own (`generate/engine.py`); requests wait on this process's
event loop. Text is decoded once a flush, not once a token. A stream is flushed at most every
`stream_interval_ms`, with many streams less often: a message costs as much as many tokens on its
way to the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

from rayonale.data import tokens
from rayonale.generate.engine import Call, Engine, EngineFailed
from rayonale.serve import goal, sampling, served_model
from rayonale.serve.following import Followed
from rayonale.serve.messages import (
    About,
    Answer,
    Ask,
    Begun,
    Piece,
    Refused,
    Relayed,
)
from rayonale.serve.relay import Outbox
from rayonale.serve.sampling import Part
from rayonale.serve.served_model import ServedModel
from rayonale.serve.settings import Policy

log = logging.getLogger("rayonale")


class Arrivals:
    """Outputs of one stream on their way from the engine's thread to the loop.

    The loop is woken for a stream that waits, and at a stream's end. Between two messages outputs
    pile up in silence: each wake-up would take the interpreter from the engine's thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._woken, self._over = loop, asyncio.Event(), asyncio.Event()
        self._box: deque[list[tuple[int, Any]]] = deque()
        self._waiting = self._ended = False

    def put(self, outputs: list[tuple[int, Any]]) -> None:
        """Called on the engine's thread."""
        self._box.append(outputs)
        if self._waiting:
            self._waiting = False
            self._loop.call_soon_threadsafe(self._woken.set)

    def end(self) -> None:
        """Nothing is put any more; called on the engine's thread."""
        self._ended = True
        self._loop.call_soon_threadsafe(self._tell_end)

    def _tell_end(self) -> None:
        self._over.set()
        self._woken.set()

    async def taken(self) -> list[tuple[int, Any]]:
        """What has come since the last time, waited for; nothing when the stream has ended."""
        while not self._box and not self._ended:
            self._woken.clear()
            self._waiting = True
            if not self._box and not self._ended:  # else it came when nobody was to be woken yet
                await self._woken.wait()
            self._waiting = False
        found: list[tuple[int, Any]] = []
        while self._box:
            found += self._box.popleft()
        return found

    async def pause(self, seconds: float) -> None:
        """Let outputs pile up; the stream's end is not waited for."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()


class PolicyReplica:
    """One replica of a policy.

    Args:
        settings: of the policy (a challenger's with its model in place).
        registry: MLflow's tracking URI.

    Raises:
        ValueError: the model cannot be found or loaded.
    """

    def __init__(self, settings: Policy, registry: str | None) -> None:
        self._settings = settings
        model = served_model.resolve(settings.model, registry)
        self._tokenizers: dict[str, Any] = {}
        self._goals: dict[str, goal.GoalPrompt | None] = {}
        self._prepare(model)
        more: dict[str, Any] = {} if settings.pickled_weights else {"load_format": "safetensors"}
        if settings.adapters:
            more |= {"enable_lora": True, "max_loras": 4, "max_lora_rank": settings.max_lora_rank}
        self._adapters = {
            adapter.name: (number, sampling.adapter_folder(adapter.path, registry))
            for number, adapter in enumerate(settings.adapters, 1)
        }
        self._engine = Engine(model.weights, settings.engine, more=more)
        self._streams, self._outbox = 0, Outbox()
        self._warm_up(model)
        self._followed = Followed(settings, registry, model, self._prepare, self._load)

    def _warm_up(self, model: ServedModel) -> None:
        """The first request of a process compiles and imports; no client should wait for it."""
        ask = Ask("Hi", n=2, max_tokens=4, seed=0, logprobs=1, top_p=0.9)
        ids = tokens.encode_text(self._tokenizers[model.fingerprint], "Hi")
        for every in (0, 1):
            params = self._params(ask, model, len(ids), every)
            self._engine.generate(model.weights, [(ids, each) for each in params])

    def _prepare(self, model: ServedModel) -> None:
        template = self._settings.engine.chat_template
        self._tokenizers[model.fingerprint] = tokens.load_tokenizer(model.path, template)
        self._goals[model.fingerprint] = goal.read_goal(model.path)

    def _load(self, model: ServedModel) -> None:
        self._engine.generate(model.weights, [])

    def check_health(self) -> None:
        """Ray Serve's question.

        Raises:
            EngineFailed: the engine broke.
        """
        if self._engine.failed:
            raise EngineFailed(self._engine.failed)

    async def about(self) -> About:
        """What is served."""
        model = self._followed.now
        record = self._goals[model.fingerprint]
        scale = goal.scale_of(record) if record else None
        length = self._settings.engine.max_model_len
        return About(model, length, scale, self._followed.held_back)

    async def process(self) -> int:
        """Id of this process."""
        return os.getpid()

    async def running(self) -> int:
        """Samples that the engine draws now."""
        return self._engine.running

    async def kv_cache_use(self) -> float | None:
        """Share of the engine's KV cache that requests hold; None where it cannot be told."""
        return self._engine.kv_cache_use

    async def prompt_tokens(self, ask: Ask) -> list[int]:
        """Tokens that a request's prompt becomes."""
        found = self._encoded(ask, self._followed.now)
        if isinstance(found, Refused):
            raise ValueError(found.message)
        return found

    async def generate(self, ask: Ask) -> Answer | Refused:
        """Draw a request's samples."""
        model = self._followed.now
        ids = self._encoded(ask, model)
        if isinstance(ids, Refused):
            return ids
        params = self._params(ask, model, len(ids))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        call = self._submit(ask, model, [(ids, each) for each in params])
        _tell_when_done(call, done)
        try:
            await done
        except asyncio.CancelledError:
            self._engine.abort(call)
            raise
        tokenizer, pieces = self._tokenizers[model.fingerprint], []
        for index, output in enumerate(self._outputs(call)):
            if isinstance(output, Exception):
                return Refused(400, "refused_by_engine", str(output)[:300])
            part = Part(tokenizer, tokens.stop_token_ids(tokenizer), ask, index)
            part.take(output)
            pieces.append(part.flush())
        return Answer(Begun(model, len(ids)), tuple(pieces))

    async def answers(self, ask: Ask) -> AsyncGenerator[Answer | Refused, None]:
        """`generate` as a streaming call; see `relay.only`."""
        yield await self.generate(ask)

    async def stream(self, ask: Ask) -> AsyncGenerator[Begun | Refused | list[Piece], None]:
        """A request's samples as they come: first who answers, then lists of pieces."""
        model = self._followed.now
        ids = self._encoded(ask, model)
        if isinstance(ids, Refused):
            yield ids
            return
        yield Begun(model, len(ids))
        tokenizer = self._tokenizers[model.fingerprint]
        stop = tokens.stop_token_ids(tokenizer)
        parts = [Part(tokenizer, stop, ask, index) for index in range(ask.n)]
        arrivals = Arrivals(asyncio.get_running_loop())
        params = self._params(ask, model, len(ids), self._every())
        call = self._submit(ask, model, [(ids, each) for each in params], arrivals.put)
        call.done.add_done_callback(lambda _: arrivals.end())
        self._streams += 1
        try:
            while came := await arrivals.taken():
                for index, output in came:
                    parts[index].take(output)
                yield [part.flush() for part in parts if part.news]
                if all(part.told for part in parts):
                    return
                await arrivals.pause(self._pause_ms() / 1_000)
            self._outputs(call)  # raises what ended it
        finally:
            self._streams -= 1
            self._engine.abort(call)

    async def relayed(
        self, ask: Ask, path: str, number: int
    ) -> AsyncGenerator[Relayed | Refused | Begun | list[Piece], None]:
        """`stream`, through the socket of an endpoint on this machine; gives how it ended.

        An endpoint on another machine is given all of it.
        """
        async with (
            contextlib.aclosing(self.stream(ask)) as pieces,
            contextlib.aclosing(self._outbox.relay(pieces, path, number)) as told,
        ):
            async for each in told:
                yield each

    def _pause_ms(self) -> float:
        """Until a stream sends again: longer the more streams share what messages may cost."""
        shared = self._settings.stream_message_ms * self._streams
        return max(self._settings.stream_interval_ms, shared)

    def _every(self) -> int:
        """Tokens that the engine tells of at a time: what it draws in a quarter of a pause.

        Each time takes some of the engine's thread, and none is sent before the pause is over.
        """
        return max(1, int(self._pause_ms() / 4_000 / max(self._engine.step_s, 0.001)))

    def _encoded(self, ask: Ask, model: ServedModel) -> list[int] | Refused:
        tokenizer = self._tokenizers[model.fingerprint]
        try:
            if isinstance(ask.prompt, str):
                ids = tokens.encode_text(tokenizer, ask.prompt)
            else:
                record = self._goals[model.fingerprint]
                ids = tokens.encode_prompt(tokenizer, goal.told(record, ask.goal, ask.prompt))
        except goal.GoalError as error:
            return Refused(400, "invalid_goal", str(error), "goal")
        except ValueError as error:
            field = "prompt" if isinstance(ask.prompt, str) else "messages"
            return Refused(400, "invalid_prompt", _without_text(error), field)
        limit = self._settings.engine.max_model_len
        wanted = ask.max_tokens or 1
        if len(ids) + wanted > limit:
            told = (
                f"this model's context is {limit} tokens; the prompt has {len(ids)} and up to "
                f"{wanted} were asked for"
            )
            return Refused(400, "context_length_exceeded", told, "messages")
        return ids

    def _params(self, ask: Ask, model: ServedModel, prompt: int, every: int = 0) -> list[Any]:
        stop = tokens.stop_token_ids(self._tokenizers[model.fingerprint])
        room = self._settings.engine.max_model_len - prompt
        return [sampling.params(ask, index, stop, room, every) for index in range(ask.n)]

    def _submit(self, ask: Ask, model: ServedModel, requests: Any, sink: Any = None) -> Call:
        adapter = None
        if ask.adapter is not None:
            number, folder = self._adapters[ask.adapter]
            adapter = sampling.lora_request(ask.adapter, number, folder)
        try:
            return self._engine.submit(model.weights, requests, sink, adapter)
        except EngineFailed as error:
            self._die(error)
            raise

    def _outputs(self, call: Call) -> list[Any]:
        try:
            return call.done.result()
        except EngineFailed as error:
            self._die(error)
            raise

    @staticmethod
    def _die(error: Exception) -> None:
        """A broken engine cannot be mended in its process; Ray Serve starts another replica."""
        log.error("engine failed, this replica ends: %s", error)
        os._exit(1)


def _tell_when_done(call: Call, done: asyncio.Future[None]) -> None:
    loop = asyncio.get_running_loop()

    def tell() -> None:
        if not done.done():
            done.set_result(None)

    call.done.add_done_callback(lambda _: loop.call_soon_threadsafe(tell))


def _without_text(error: ValueError) -> str:
    """An encoder's message without what it quotes of the conversation."""
    return str(error).split(": [")[0][:300]
