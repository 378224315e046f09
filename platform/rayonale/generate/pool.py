"""The running engines of a recipe, shared by its stages.

Starting an engine costs tens of seconds, exchanging its weights a fraction of one, so a stage
asks `Engines.get` for a pool and gets the running one whenever options and architecture agree:
policies trained from one base model all use the same engines.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from typing import Any

import ray

from rayonale import cluster, models
from rayonale.generate import warm_up
from rayonale.generate.client import Client
from rayonale.generate.engine_arguments import architecture
from rayonale.generate.replica import Replica
from rayonale.generate.rewards import RewardReplica, TransformersReplica
from rayonale.generate.settings import (
    Completion,
    EngineOptions,
    Request,
    Runner,
    Sampling,
    Weights,
)

log = logging.getLogger("rayonale")

_CALLS = 64  # calls that one replica takes at once; they wait in the engine's queue


@dataclass(frozen=True)
class EnginePool:
    """Running replicas and the weights that this user of them wants.

    It can be pickled and used from any process of the cluster; every call names its weights, so
    users of one pool with different weights cannot get each other's.
    """

    weights: Weights
    options: EngineOptions
    replicas: tuple[Any, ...]
    gpu: bool

    def client(self) -> Client:
        """A client of this pool for many calls from several threads."""
        return Client(self.weights, self.replicas, self.options)

    def generate(
        self,
        requests: list[Request],
        sampling: Sampling,
        json_schema: dict[str, Any] | None = None,
        logprobs: bool = False,
    ) -> list[Completion]:
        """Completions of a handful of requests, in order; for many rows see `stream.py`."""
        rows = [[request] for request in requests]
        found = self.client().generate(rows, sampling, json_schema, logprobs)
        return [completions[0] for completions in found]


class Engines:
    """Starts engines when first asked for and keeps them. Use as a context manager.

    Args:
        replica_class: the actor's class (tests give a fragile one).
    """

    def __init__(self, replica_class: type[Replica] = Replica) -> None:
        self._classes: dict[Runner, type[Any]] = {
            "generate": replica_class,
            "pooling": RewardReplica,
            "transformers": TransformersReplica,
        }
        self._running: dict[tuple[str, EngineOptions, Runner], EnginePool] = {}

    def get(
        self, model: str, options: EngineOptions | None = None, runner: Runner = "generate"
    ) -> EnginePool:
        """A pool that generates with `model` (or gives rewards), started or reused.

        Args:
            model: as in recipes (see `rayonale.models.resolve`).
            options: how to run it.
            runner: what its replicas do.

        Raises:
            ValueError: the model is not found, or an option does not fit the device.
            TimeoutError: no replica within `start_timeout_s`; the message says what was asked
                for and what the cluster has.
        """
        options = options or EngineOptions()
        path = models.resolve(model)
        weights = Weights(path, models.fingerprint(path))
        key = (architecture(path), options, runner)
        running = self._running.get(key)
        if running is None:
            self._make_room(options)
            running = self._start(weights, options, runner)
            self._running[key] = running
        return EnginePool(weights, options, running.replicas, running.gpu)

    def rewards(self, model: str, options: EngineOptions, *, fall_back: bool) -> EnginePool:
        """A pool of vLLM's that gives rewards.

        Args:
            model: a sequence classifier.
            fall_back: take Transformers where vLLM does not know the architecture.
        """
        try:
            return self.get(model, options, "pooling")
        except RuntimeError as error:
            if not fall_back or "not supported" not in str(error):
                raise
            log.warning("engine: vLLM does not know %s; Transformers takes its place", model)
            return self.get(model, options, "transformers")

    def release(self, gpu_only: bool = False) -> None:
        """Stop engines, so that their devices and memory are free (for training, say).

        Args:
            gpu_only: leave engines that reserve nothing (on one CPU machine).
        """
        for key, pool in list(self._running.items()):
            if gpu_only and not pool.gpu:
                continue
            for replica in pool.replicas:
                ray.kill(replica)
            self._running.pop(key, None)  # two stages that start at once may both be here

    def close(self) -> None:
        """Stop all engines."""
        if ray.is_initialized():
            self.release()
        self._running.clear()

    def __enter__(self) -> Engines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_room(self, options: EngineOptions) -> None:
        """Stop engines of other models when their GPUs are needed; stages run one by one."""
        needed = options.replicas * options.tensor_parallel_size
        if any(pool.gpu for pool in self._running.values()):
            free = ray.available_resources().get("GPU", 0)
            if free < needed:
                self.release(gpu_only=True)

    def _start(self, weights: Weights, options: EngineOptions, runner: Runner) -> EnginePool:
        resources = cluster.connect()
        gpu = resources.get("GPU", 0) > 0
        begun = time.monotonic()
        actor = ray.remote(self._classes[runner]).options(**_actor_options(options, gpu))
        replicas = tuple(actor.remote(weights, options) for _ in range(options.replicas))
        log.info(
            "engine: starting %d replica(s) of %s on %s",
            options.replicas,
            weights.path,
            "GPU" if gpu else "CPU",
        )
        warming = warm_up.begin()
        try:
            _wait(replicas, options, _actor_options(options, gpu))
            warm_up.finish(warming)
        except BaseException:
            for replica in replicas:
                ray.kill(replica)
            raise
        log.info("engine: ready after %.1f s", time.monotonic() - begun)
        return EnginePool(weights, options, replicas, gpu)


def _actor_options(options: EngineOptions, gpu: bool) -> dict[str, Any]:
    """Resources and environment of a replica.

    On one CPU machine replicas reserve no cores: they idle while other stages work, and must
    not keep those from being scheduled.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    cores = int(max((node["Resources"].get("CPU", 1) for node in nodes), default=1))
    threads = options.threads or max(1, cores // (options.replicas if len(nodes) == 1 else 1))
    environment = {
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    if not gpu:
        environment |= {
            "OMP_NUM_THREADS": str(threads),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
    reserved = 0 if len(nodes) == 1 else threads
    return {
        "num_cpus": 1 if gpu else reserved,
        "num_gpus": options.tensor_parallel_size if gpu else 0,
        "max_restarts": options.max_restarts,
        "max_concurrency": _CALLS,
        "runtime_env": {"env_vars": environment},
    }


def _wait(replicas: tuple[Any, ...], options: EngineOptions, asked: dict[str, Any]) -> None:
    """Wait until every replica has its engine; say why when that takes too long."""
    begun, told = time.monotonic(), 30.0
    pending = [replica.ready.remote() for replica in replicas]
    while pending:
        done, pending = ray.wait(pending, num_returns=len(pending), timeout=5)
        for ref in done:
            try:
                ray.get(ref)
            except ray.exceptions.RayActorError as error:
                raise RuntimeError(f"an engine could not be started: {error}") from error
        waited = time.monotonic() - begun
        if pending and waited > min(told, options.start_timeout_s):
            told += 30
            need = {k: asked[k] for k in ("num_cpus", "num_gpus")}
            why = (
                f"{len(pending)} of {len(replicas)} engine(s) not ready after {waited:.0f} s; each "
                f"asks for {need}; the cluster has {_counts(ray.cluster_resources())}, free "
                f"{_counts(ray.available_resources())}"
            )
            if waited > options.start_timeout_s:
                raise TimeoutError(why)
            log.info("engine: %s", why)


def _counts(resources: dict[str, float]) -> dict[str, float]:
    return {name: resources.get(name, 0.0) for name in ("CPU", "GPU")}
