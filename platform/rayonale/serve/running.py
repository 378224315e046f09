"""Starts the applications of a deployment file, here or on the cluster that runs this job."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import ray
import yaml

from rayonale import cluster
from rayonale.serve import haproxy
from rayonale.serve.settings import Service

log = logging.getLogger("rayonale")


@dataclass(frozen=True)
class Running:
    """Applications that run.

    Attributes:
        urls: where each answers, on this machine.
        local: whether they end with this process.
        names: of the applications; one that another asks comes after it.
    """

    urls: tuple[str, ...]
    local: bool
    names: tuple[str, ...] = ()

    def stop(self) -> None:
        """End them; requests that are worked on are finished first."""
        from ray import serve

        node = ray.get_runtime_context().get_node_id()
        with ExitStack() as then:  # each in any case, the last one first
            then.callback(haproxy.end, f"/{node}/")  # left where Ray's processes were killed
            then.callback(ray.shutdown)
            then.callback(serve.shutdown)
            for name in self.names:
                _delete(name)


def read(file: str) -> dict[str, Any]:
    """A deployment file, checked.

    Raises:
        ValueError: it is not of the layout of `serve deploy`, or an application's `args` are
            wrong.
    """
    from ray.serve.schema import ServeDeploySchema

    value = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{file}: expected a mapping with `applications`")
    schema = ServeDeploySchema.model_validate(value)
    open_to = (schema.http_options.host if schema.http_options else None) or "127.0.0.1"
    for application in schema.applications:
        service = Service.model_validate(application.args)
        if service.access.open_on_loopback and not is_loopback(open_to):
            raise ValueError(
                f"{file}: application {application.name} has no keys and would listen on "
                f"{open_to}; expected access.keys_file, or http_options.host: 127.0.0.1"
            )
    return value


def is_loopback(host: str) -> bool:
    """Whether only this machine can call that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def start(file: str, port: int | None = None, num_cpus: int | None = None) -> Running:
    """Start a deployment file's applications and wait until they answer.

    Args:
        port: in the place of the file's.
        num_cpus: cores of a local Ray session.

    Raises:
        ValueError: the file is wrong.
        RuntimeError: an application did not start.
    """
    value = read(file)
    local = not os.environ.get("RAY_ADDRESS")
    http = {"host": "127.0.0.1", "port": 8000, **(value.get("http_options") or {})}
    if port is not None:
        http["port"] = port
    unfit = haproxy.unfit(http["host"], http.get("ssl_keyfile"))
    haproxy.clear()
    mine = not ray.is_initialized()
    cluster.connect(num_cpus, behind_haproxy=unfit is None)
    try:
        return _started(value, http, local)
    except BaseException:
        if local and mine:
            Running((), local).stop()
        raise


def _started(value: Mapping[str, Any], http: Mapping[str, Any], local: bool) -> Running:
    from ray import serve
    from ray.serve.schema import LoggingConfig

    if local and not serve.status().proxies:  # else it is Serve itself, which is told what changed
        _require_free(http["host"], http["port"])
    quiet = LoggingConfig(enable_access_log=False, log_level="WARNING")  # we keep our own
    serve.start(
        proxy_location=value.get("proxy_location", "EveryNode"),
        http_options=dict(http),
        logging_config=quiet,
    )
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    targets = [
        serve.RunTarget(
            _built(application),
            name=application["name"],
            route_prefix=application.get("route_prefix", "/"),
            logging_config=quiet,
        )
        for application in value["applications"]
    ]
    serve.run_many(targets)  # together: engines take their time
    host = f"[{http['host']}]" if ":" in http["host"] else http["host"]
    base = f"http://{host}:{http['port']}"
    urls = tuple(f"{base}{target.route_prefix}" for target in targets)
    return Running(urls, local, _askers_first(value["applications"]))


def _delete(name: str) -> None:
    """End an application, and wait for what is under way, which a shutdown does not.

    Its replicas have limits of their own; Ray Serve waits for a minute only.
    """
    from ray import serve

    while True:
        try:
            serve.delete(name)
            return
        except TimeoutError:
            log.info("%s still has requests under way", name)


def _askers_first(applications: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Names of applications; one whose rewards another asks for comes after that."""
    oracles = [(each.get("args") or {}).get("oracle") or {} for each in applications]
    asked = {oracle.get("application") for oracle in oracles}
    return tuple(sorted((each["name"] for each in applications), key=lambda name: name in asked))


def _require_free(host: str, port: int) -> None:
    """Ports are shared between processes: a second service would get some of the requests."""
    with suppress(OSError):
        socket.create_connection((host, port), timeout=1).close()
        raise ValueError(f"something listens at {host}:{port} already; give another port")


def _built(application: Mapping[str, Any]) -> Any:
    module, _, name = application["import_path"].partition(":")
    return getattr(import_module(module), name)(application.get("args") or {})
