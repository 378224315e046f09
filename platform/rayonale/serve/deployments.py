"""Puts an application together: the endpoint in front, an engine's deployment for each model."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import ray
from ray import serve
from ray.serve import Application
from ray.serve._private.constants import RAY_SERVE_ENABLE_HA_PROXY
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle

from rayonale.generate.settings import EngineOptions
from rayonale.lineage import tracking
from rayonale.serve import haproxy
from rayonale.serve.oracle import OracleReplica
from rayonale.serve.policy import PolicyReplica
from rayonale.serve.running import is_loopback
from rayonale.serve.settings import Deployed, OracleApplication, Policy, ServedOracle, Service

ORACLE = "oracle"  # the oracle's deployment in its application
_DRAIN_S = 60.0  # an engine that is to go finishes its requests for at most so long


def application(arguments: Mapping[str, Any]) -> Application:
    """An application from its `args` in a deployment file.

    Raises:
        ValueError: an argument is wrong; the message names it.
    """
    service = Service.model_validate(dict(arguments))
    registry = service.registry or tracking.default_uri()
    policies = []
    for policy in service.policies:
        champion, challenger = _policy(policy.name, policy, registry), None
        if policy.challenger is not None:
            other = {"model": policy.challenger.model, "adapters": ()}
            challenged = policy.model_copy(update=other)
            challenger = _policy(f"{policy.name}-challenger", challenged, registry)
        policies.append((policy, champion, challenger))
    oracle = None
    if isinstance(service.oracle, ServedOracle):
        oracle = _options(service.oracle, OracleReplica, ORACLE).bind(service.oracle, registry)
    endpoint: Any = serve.deployment(
        name="endpoint",
        num_replicas=service.endpoints,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=service.limits.in_flight + 64,  # those over the limit are told so
        # Its requests may wait for an engine that is replaced with it, which can take minutes.
        graceful_shutdown_timeout_s=max(_DRAIN_S, service.limits.timeout_s),
    )(serve.ingress()(Endpoint))
    return endpoint.bind(service, policies, oracle)  # type: ignore[no-any-return]


class Endpoint:
    """What Ray Serve's HTTP proxies hand requests to.

    Raises:
        ValueError: it would be open to other machines, or without the TLS that was asked for.
    """

    def __init__(self, service: Service, policies: list[Any], oracle: Any) -> None:
        if RAY_SERVE_ENABLE_HA_PROXY:
            _check_haproxy(service, _get_global_client().http_config)
        _log_to_stderr()
        self._service, self._oracle = service, oracle and _of_this_process(oracle)
        self._policies = [
            (policy, *(each and _of_this_process(each) for each in handles))
            for policy, *handles in policies
        ]
        self._keeper: Any = None
        self._router: Any = None

    def __serve_build_asgi_app__(self) -> Any:
        from rayonale.serve.api import build
        from rayonale.serve.kept import Keeper
        from rayonale.serve.routing import Router

        found = None
        if isinstance(self._service.oracle, ServedOracle):
            found = (self._service.oracle.name, self._oracle)
        elif isinstance(self._service.oracle, OracleApplication):
            name = self._service.oracle.application
            found = (ORACLE, serve.get_deployment_handle(ORACLE, app_name=name))
        if self._service.sampled is not None:
            self._keeper = Keeper(self._service.sampled)
        self._router = Router(self._policies, found)
        return build(self._service, self._router, self._keeper)

    def __del__(self) -> None:
        try:
            if getattr(self, "_keeper", None) is not None:
                self._keeper.write()
        finally:
            if getattr(self, "_router", None) is not None:
                self._router.close()


def _of_this_process(handle: DeploymentHandle[Any]) -> DeploymentHandle[Any]:
    """The handle with this process's switches: one that is handed over keeps the driver's.

    Its calls would be Ray tasks, which cost several times what calls by gRPC do.
    """
    return DeploymentHandle(handle.deployment_name, handle.app_name)


def _check_haproxy(service: Service, options: Any) -> None:
    """What HAProxy cannot do, as Ray starts it, is not passed over."""
    if why := haproxy.unfit(str(options.host), options.ssl_keyfile):
        raise ValueError(f"{why}; expected {haproxy.SWITCH}=0")
    # It does not tell who calls: only its own address keeps other machines out.
    if service.access.open_on_loopback and not is_loopback(str(options.host)):
        raise ValueError(
            f"no keys, and Ray Serve listens on {options.host}; expected access.keys_file"
        )


def _policy(name: str, policy: Policy, registry: str) -> Any:
    return _options(policy, PolicyReplica, name).bind(policy, registry)


def _options(model: Deployed, replica: type, name: str) -> Any:
    """A deployment with the model's replicas, devices and environment."""
    options: dict[str, Any] = {
        "name": name,
        "ray_actor_options": _actor_options(model.engine),
        "max_ongoing_requests": 4 * model.engine.max_num_seqs,
        "graceful_shutdown_timeout_s": _DRAIN_S,
        "health_check_period_s": 2,
    }
    if model.scale is None:
        options["num_replicas"] = model.engine.replicas
    else:
        options["autoscaling_config"] = model.scale.model_dump()
    return serve.deployment(**options)(replica)


def _actor_options(engine: EngineOptions) -> dict[str, Any]:
    """Resources and environment of a replica, as `generate/pool.py` gives them to engines."""
    environment = {
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    if ray.is_initialized() and ray.cluster_resources().get("GPU", 0) > 0:
        return {
            "num_cpus": 1,
            "num_gpus": engine.tensor_parallel_size,
            "runtime_env": {"env_vars": environment},
        }
    threads = engine.threads or max(1, (os.cpu_count() or 1) // engine.replicas)
    environment |= {"OMP_NUM_THREADS": str(threads), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    # On CPU replicas reserve no cores: they idle between requests.
    return {"num_cpus": 0, "runtime_env": {"env_vars": environment}}


def _log_to_stderr() -> None:
    """The access log's lines are JSON and nothing else; they go where the process's errors go."""
    access = logging.getLogger("rayonale.access")
    access.setLevel(logging.INFO)
    access.propagate = False
    if not access.handlers:
        access.addHandler(logging.StreamHandler())
