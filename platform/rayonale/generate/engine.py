"""One vLLM engine in this process, stepped by one thread on behalf of all callers.

Callers on any thread hand in lists of tokenised requests; the engine's thread adds them as they
come and steps everything together, so the tail of one batch overlaps the head of the next (this
is what a call to `LLM.generate` per batch loses). A call names the weights that it wants: calls
for other weights wait until the running ones are done, then the weights are exchanged in place. A
call may take its outputs as they come (a served stream), and may be aborted.

What is special on CPU (vLLM 0.32):
- the engine runs inside the process (`VLLM_ENABLE_V1_MULTIPROCESSING=0`): half the start-up time;
- a seed per request needs whole prompts (`enable_chunked_prefill=False`);
- `reload_weights` leaves the packed copy of embedding-like layers (a tied LM head) as it was in
  float32, so these are packed again (`_repack`);
- the nucleus is found without sorting the vocabulary (`nucleus.py`).
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from rayonale.generate.engine_arguments import engine_arguments, on_gpu
from rayonale.generate.settings import EngineOptions, Runner, Weights

log = logging.getLogger("rayonale")

# oneDNN keeps a kernel for each number of tokens that a step ever had, by default 1,024 of them. An
# engine that only reads prompts has another number each step: that was 0.7 GiB, and made it no
# faster.
_KERNELS = "32"


class EngineFailed(RuntimeError):
    """The engine raised while stepping: its state is unknown and it must be started anew.

    `args` are what it raised and the id of its process.
    """

    def __init__(self, why: str, process: int | None = None) -> None:
        super().__init__(why, os.getpid() if process is None else process)


# Takes what came of a call's requests in one step: (position, vLLM's output or an Exception).
Sink = Callable[[list[tuple[int, Any]]], None]


@dataclass(eq=False)
class Call:
    """Requests handed in together: (prompt tokens, vLLM SamplingParams).

    Attributes:
        adapter: vLLM's LoRARequest, for all of them.
        sink: takes outputs as they come, on the engine's thread, and must not block; it has taken
            the last before `done` is.
    """

    weights: Weights
    requests: list[tuple[list[int], Any]]
    done: Future[list[Any]]
    outputs: dict[int, Any] = field(default_factory=dict)
    adapter: Any = None
    sink: Sink | None = None
    aborted: bool = False


class Engine:
    """A running engine.

    Args:
        weights: loaded first.
        options: see `EngineOptions`.
        runner: `generate`, or `pooling` for a sequence classifier.
        more: further arguments of vLLM's `EngineArgs`.

    Raises:
        Exception: whatever vLLM raised while starting.
    """

    def __init__(
        self,
        weights: Weights,
        options: EngineOptions,
        runner: Runner = "generate",
        more: Mapping[str, Any] | None = None,
    ) -> None:
        self._options, self._runner, self._more = options, runner, dict(more or {})
        self._loaded = weights
        self._inbox: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._waiting: list[Call] = []
        self._owner: dict[str, tuple[Call, int]] = {}  # request id → call, position
        self._number = 0
        self._step_s = 0.0
        self._failed: str | None = None
        self._stopped = False
        self._llm: Any = None
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._main, args=(started,), daemon=True)
        self._thread.start()
        started.result()

    def generate(self, weights: Weights, requests: list[tuple[list[int], Any]]) -> list[Any]:
        """Draw completions with the given weights; blocks until all are done.

        Args:
            weights: exchanged for the loaded ones when they differ.
            requests: (prompt token ids, `vllm.SamplingParams` with n = 1, or for a pooling engine
                `vllm.PoolingParams`).

        Returns:
            For each request vLLM's output, or the Exception with which the engine
            refused that request.

        Raises:
            EngineFailed: the engine broke; start another.
        """
        return self.submit(weights, requests).done.result()

    def submit(
        self,
        weights: Weights,
        requests: list[tuple[list[int], Any]],
        sink: Sink | None = None,
        adapter: Any = None,
    ) -> Call:
        """Hand in requests without waiting; `Call.done` has what `generate` returns.

        Args:
            weights, requests: as in `generate`.
            sink: called on the engine's thread, at most once a step, with this call's new outputs
                (of the kind that each request's `output_kind` asks for); it must not block.
            adapter: a `vllm.lora.request.LoRARequest` on top of the weights.

        Raises:
            EngineFailed: the engine broke; start another.
        """
        if self._failed or self._stopped:
            raise EngineFailed(self._failed or "the engine was closed")
        call = Call(weights, requests, Future(), adapter=adapter, sink=sink)
        self._inbox.put(call)
        return call

    def abort(self, call: Call) -> None:
        """Stop a call: nothing more comes of it, and its `done` is cancelled."""
        if not call.done.done():
            self._inbox.put(Call(call.weights, [], call.done, aborted=True))

    @property
    def failed(self) -> str | None:
        """What broke the engine; None while it runs."""
        return self._failed

    @property
    def running(self) -> int:
        """Requests that are in the engine now."""
        return len(self._owner)

    @property
    def kv_cache_use(self) -> float | None:
        """Share of the KV cache that requests hold; None where vLLM steps in another process."""
        core = getattr(self._llm.engine_core, "engine_core", None)
        return None if core is None else float(core.scheduler.kv_cache_manager.usage)

    @property
    def step_s(self) -> float:
        """Seconds that a step takes, of late."""
        return self._step_s

    def close(self) -> None:
        """Stop the thread and free the engine's memory."""
        self._stopped = True
        self._inbox.put(None)
        self._thread.join(timeout=60)

    # Everything below runs on the engine's thread: OpenMP's threads belong to the thread that
    # first used them, so vLLM is made and stepped on one and the same.

    def _main(self, started: Future[None]) -> None:
        try:
            self._llm = self._start()
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(None)
        try:
            while self._turn():
                pass
        except BaseException as error:
            log.exception("engine failed")
            self._failed = f"{type(error).__name__}: {error}"
        self._fail_all(self._failed or "the engine was closed")
        self._llm.engine_core.shutdown()

    def _start(self) -> Any:
        gpu = on_gpu()
        if not gpu:
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
            if self._runner == "pooling":  # read when the first kernel is made
                os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _KERNELS)
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        arguments = engine_arguments(self._loaded.path, self._options, gpu, self._runner)
        arguments |= self._more
        if not gpu and self._runner == "generate":
            from rayonale.generate import nucleus

            nucleus.install()
        return LLMEngine.from_engine_args(EngineArgs(**arguments))

    def _turn(self) -> bool:
        """Take in what has come, exchange weights if it is time, step once."""
        idle = not self._owner and not self._waiting
        while idle or not self._inbox.empty():
            call = self._inbox.get()
            if call is None:
                return False
            idle = False
            if call.aborted:
                self._abort(call.done)
            else:
                self._waiting.append(call)
        self._admit()
        if self._owner:
            begun = time.monotonic()
            self._step()
            self._step_s += 0.1 * (time.monotonic() - begun - self._step_s)
        return True

    def _step(self) -> None:
        told: dict[int, tuple[Call, list[tuple[int, Any]]]] = {}
        finished = []
        for output in self._llm.step():
            if output.request_id not in self._owner:
                continue  # aborted
            call, position = self._owner[output.request_id]
            if call.sink is not None:
                told.setdefault(id(call), (call, []))[1].append((position, output))
            if output.finished:
                finished.append(output)
        for call, outputs in told.values():
            assert call.sink is not None
            call.sink(outputs)
        for output in finished:  # last: who sees a call done has got all of it
            self._finish(output.request_id, output)

    def _abort(self, done: Future[list[Any]]) -> None:
        names = [name for name, (call, _) in self._owner.items() if call.done is done]
        self._llm.abort_request(names)
        for name in names:
            del self._owner[name]
        self._waiting = [call for call in self._waiting if call.done is not done]
        if not done.done():
            done.cancel()

    def _admit(self) -> None:
        """First come, first served; a call for other weights holds back those behind it."""
        while self._waiting:
            call = self._waiting[0]
            if call.weights != self._loaded:
                if self._owner:
                    return
                self._exchange(call.weights)
            self._waiting.pop(0)
            self._add(call)

    def _add(self, call: Call) -> None:
        if not call.requests:
            call.done.set_result([])
        for position, (tokens, params) in enumerate(call.requests):
            self._number += 1
            name = str(self._number)
            try:
                added = self._llm.add_request(
                    name, {"prompt_token_ids": tokens}, params, lora_request=call.adapter
                )
            except ValueError as error:  # this request alone is bad (vLLM validates before adding)
                self._owner[name] = (call, position)
                if call.sink is not None:
                    call.sink([(position, error)])
                self._finish(name, error)
                continue
            del added  # the engine appends a suffix of its own to ids; outputs carry ours
            self._owner[name] = (call, position)

    def _finish(self, request_id: str, output: Any) -> None:
        call, position = self._owner.pop(request_id)
        call.outputs[position] = output
        if len(call.outputs) == len(call.requests):
            call.done.set_result([call.outputs[i] for i in range(len(call.requests))])

    def _exchange(self, weights: Weights) -> None:
        """Load other weights of the same architecture in place."""
        begun = time.monotonic()
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": weights.path})
        if not on_gpu():
            self._llm.collective_rpc(_repack)
        if not self._llm.reset_prefix_cache():
            raise EngineFailed("the prefix cache could not be emptied after new weights")
        log.info("engine: weights of %s in %.1f s", weights.path, time.monotonic() - begun)
        self._loaded = weights

    def _fail_all(self, why: str) -> None:
        while not self._inbox.empty():
            late = self._inbox.get()
            if late is not None:
                self._waiting.append(late)
        calls = [call for call, _ in self._owner.values()] + self._waiting
        for call in calls:
            if not call.done.done():
                call.done.set_exception(EngineFailed(why))


def _repack(worker: Any) -> None:
    """Pack again the layers whose plain weight vLLM keeps beside the packed copy.

    Linear layers drop the plain weight and are packed anew by `reload_weights`; embeddings and
    LM heads are not (their packed copy would stay that of the previous model).
    """
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    for module in worker.model_runner.model.modules():
        if hasattr(module, "cpu_linear") and module.weight.ndim == 2:
            dispatch_cpu_unquantized_gemm(module, remove_weight=False)
