"""Calls to a pool that survive a replica's death and find the row that caused it.

When a replica dies, all batches that it was working on fail together. Mostly the machine is to
blame, so once the replica is back they are first tried again together, at full speed. If it dies
again, one of their rows may be to blame: each batch is tried alone, and if that kills it, row by
row; the row that kills the replica gets `engine_killed`. A poisonous row costs four restarts.
Ray restarts a replica `max_restarts` times; after that the pass fails with `EngineDead`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, RayActorError

from rayonale.generate.engine import EngineFailed
from rayonale.generate.settings import Completion, EngineOptions, Request, Sampling, Weights

log = logging.getLogger("rayonale")

Rows = list[list[Request]]  # requests of each row; a row is tried, and blamed, as a whole


class EngineDead(RuntimeError):
    """A replica died and will not come back."""


class EngineHung(RuntimeError):
    """A replica gave no answer within `call_timeout_s`."""


class _Died(Exception):
    """This call's replica died under it."""


class _Lane:
    """One replica: many calls at a time normally, one while its death is looked into."""

    def __init__(self, replica: Any) -> None:
        self.replica = replica
        self.calls = 0
        self._condemned: set[int] = set()  # processes whose engine broke
        self._alone = False
        self._change = threading.Condition()

    def condemn(self, process: int) -> None:
        """Have a process replaced whose engine broke while the process lives."""
        with self._change:
            if process not in self._condemned:
                self._condemned.add(process)
                ray.kill(self.replica, no_restart=False)

    def answers(self, timeout: float) -> bool:
        """Whether the replica is there, in a process that is not about to end."""
        process = ray.get(self.replica.ready.remote(), timeout=timeout)
        return process not in self._condemned

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._change:
            self._change.wait_for(lambda: not self._alone)
            self.calls += 1
        try:
            yield
        finally:
            with self._change:
                self.calls -= 1
                self._change.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._change:
            self._change.wait_for(lambda: not self._alone)
            self._alone = True
            self._change.wait_for(lambda: self.calls == 0)
        try:
            yield
        finally:
            with self._change:
                self._alone = False
                self._change.notify_all()


class Client:
    """A thread-safe client of a pool's replicas; each call goes to the least busy one."""

    def __init__(self, weights: Weights, replicas: tuple[Any, ...], options: EngineOptions) -> None:
        self._weights, self._options = weights, options
        self._lanes = [_Lane(replica) for replica in replicas]
        self._choice = threading.Lock()

    def generate(
        self,
        rows: Rows,
        sampling: Sampling,
        json_schema: dict[str, Any] | None = None,
        logprobs: bool = False,
    ) -> list[list[Completion]]:
        """Completions of each row's requests, in order.

        Raises:
            EngineDead: a replica died more often than it may be restarted.
            EngineHung: no answer within `call_timeout_s`.
        """
        with self._choice:
            lane = min(self._lanes, key=lambda each: each.calls)
        arguments = (sampling, json_schema, logprobs)
        try:
            with lane.shared():
                return self._call(lane, rows, arguments)
        except _Died as death:
            log.warning("engine: a replica died (%s); its batches are tried again", death)
        try:
            with lane.shared():
                self._wait_until_back(lane)
                return self._call(lane, rows, arguments)
        except _Died:
            log.warning("engine: the replica died again; its batches are tried one at a time")
        with lane.alone():
            return self._look_into(lane, rows, arguments)

    def _look_into(self, lane: _Lane, rows: Rows, arguments: tuple[Any, ...]) -> Any:
        """Alone, then row by row."""
        self._wait_until_back(lane)
        try:
            return self._call(lane, rows, arguments)
        except _Died:
            log.warning("engine: died again on the same batch; its rows are tried one by one")
        found = []
        for row in rows:
            self._wait_until_back(lane)
            try:
                found.extend(self._call(lane, [row], arguments))
            except _Died as death:
                log.warning("engine: killed by a row, which is rejected")
                found.append([Completion(error="engine_killed", detail=str(death)) for _ in row])
        return found

    def _call(self, lane: _Lane, rows: Rows, arguments: tuple[Any, ...]) -> list[list[Completion]]:
        flat = [request for row in rows for request in row]
        try:
            found = ray.get(
                lane.replica.generate.remote(self._weights, flat, *arguments),
                timeout=self._options.call_timeout_s,
            )
        except RayActorError as error:
            raise _Died(_first_line(error)) from error
        except EngineFailed as error:  # raised through Ray: the process lives, the engine not
            why, process = getattr(error, "cause", error).args
            lane.condemn(process)
            raise _Died(why) from error
        except GetTimeoutError as error:
            raise EngineHung(
                f"an engine gave no answer to {len(flat)} requests within call_timeout_s = "
                f"{self._options.call_timeout_s:.0f} s; raise it or make batches smaller"
            ) from error
        completions = iter(found)
        return [[next(completions) for _ in row] for row in rows]

    def _wait_until_back(self, lane: _Lane) -> None:
        """Until the replica answers; raises when it is dead for good."""
        begun, dead = time.monotonic(), 0
        while time.monotonic() - begun < self._options.start_timeout_s:
            try:
                if lane.answers(self._options.start_timeout_s):
                    return
                time.sleep(0.2)
            except ActorUnavailableError:
                time.sleep(0.5)
            except ActorDiedError as error:
                dead += 1
                if dead >= 5:
                    raise EngineDead(
                        f"an engine died and was restarted max_restarts = "
                        f"{self._options.max_restarts} times already: {error}"
                    ) from error
                time.sleep(1)
            except GetTimeoutError:
                break
        raise EngineDead(
            f"an engine did not come back within start_timeout_s = "
            f"{self._options.start_timeout_s:.0f} s after it died"
        )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
