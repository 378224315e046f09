"""Connecting to Ray: the cluster that runs this job, or a local session.

Inside `ray job submit` (and wherever RAY_ADDRESS is set) the running cluster is used; elsewhere
a session is started for this process and ends with it.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray

from rayonale.lineage import submitted_code
from rayonale.serve import haproxy

log = logging.getLogger("rayonale")

# Ray Serve's own switches for the processes of a local session: calls between them go by gRPC (as
# Ray tasks they cost several times as much), requests of one process stay on one event loop, and
# the log of requests is written in batches. A proxy that takes over 5 s to start is killed and
# started again by default, which on a busy machine fails the whole start.
_SERVE_SWITCHES = {
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "100",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
}

OBJECT_STORE_BYTES = 1 << 30  # of a local session; rows stream through, they do not pile up


def set_up_worker() -> None:
    """Runs first in every Ray worker: its terminal output is what concerns the user."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("rayonale").setLevel(logging.INFO)
    submitted_code.warn_if_different()
    # It asks the dashboard's API each second, which a local session does not have.
    name = "ray.train.v2._internal.execution.controller.placement_group_cleaner"
    logging.getLogger(name).setLevel(logging.ERROR)


def connect(num_cpus: int | None = None, behind_haproxy: bool = True) -> dict[str, Any]:
    """Connect to Ray once per process; later calls change nothing.

    Args:
        num_cpus: cores of a local session (default: all).
        behind_haproxy: what a local session serves; else behind Ray Serve's Python proxy.

    Returns:
        The cluster's resources.

    Raises:
        ValueError: the cluster's nodes import other code than the one that was submitted.
    """
    if not ray.is_initialized():
        quiet: dict[str, Any] = {
            "logging_level": logging.WARNING,
            "runtime_env": {
                "worker_process_setup_hook": "rayonale.cluster.set_up_worker",
                "env_vars": submitted_code.worker_environment(),
            },
        }
        if os.environ.get("RAY_ADDRESS"):
            submitted_code.check_driver()
            ray.init(**quiet)
            submitted_code.check_nodes()
        else:
            # By default workers, and with them engines, stand back behind Ray's own processes.
            os.environ.setdefault("RAY_worker_niceness", "0")
            # Started for an empty runtime environment, they would never be given work.
            os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
            proxy = haproxy.switches() if behind_haproxy else {haproxy.SWITCH: "0"}
            with _switches(_SERVE_SWITCHES | proxy | _free_ports(haproxy.PORTS)):
                ray.init(
                    "local",  # never one that happens to run on this machine
                    num_cpus=num_cpus,
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    **quiet,
                )
        resources = ray.cluster_resources()
        log.info(
            "Ray: %d node(s), %g CPU, %g GPU",
            len(ray.nodes()),
            resources.get("CPU", 0),
            resources.get("GPU", 0),
        )
    return dict(ray.cluster_resources())


@contextmanager
def _switches(values: Mapping[str, str]) -> Iterator[None]:
    """Environment of the processes that are started meanwhile; this one keeps its own.

    Here handles must go on working outside of event loops. What the user has set is left.
    """
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _free_ports(names: Sequence[str]) -> dict[str, str]:
    """A port that nobody listens on for each name."""
    with ExitStack() as held:
        found = {}
        for name in names:
            listening = held.enter_context(socket.socket())
            listening.bind(("", 0))
            found[name] = str(listening.getsockname()[1])
        return found


def lasting(uri: str) -> str:
    """Where outputs named by a relative path go: into a folder that is there after the job.

    The working directory of a submitted job is an unpacked copy that Ray deletes afterwards, so
    there the path is taken from the home folder of the node's user, and that is told.
    """
    if "://" in uri or Path(uri).is_absolute() or "working_dir_files" not in Path.cwd().parts:
        return uri
    kept = Path.home() / uri
    log.warning(
        "outputs go to %s on the node that runs the driver: the job's own folder is deleted after "
        "it. Name a place that all nodes see to keep them there (runs=s3://…)",
        kept,
    )
    return str(kept)


def require(what: str, count: int, resources: Mapping[str, float]) -> None:
    """Refuse what can never be placed, instead of waiting for it for ever.

    A cluster may grow, so there it is only told that more is asked for than is there.

    Args:
        what: whose processes they are: "stages.dpo: training workers".
        count: processes that must run at the same time.
        resources: of each of them, {"CPU": 2, "GPU": 1}.

    Raises:
        ValueError: a local session has less.
    """
    have = ray.cluster_resources()
    short = {k: v for k, v in resources.items() if v * count > have.get(k, 0)}
    if not short:
        return
    told = ", ".join(
        f"{count} x {value:g} {key} asked for, {have.get(key, 0):g} there"
        for key, value in short.items()
    )
    if os.environ.get("RAY_ADDRESS"):
        log.warning("%s wait for the cluster to grow: %s", what, told)
        return
    raise ValueError(
        f"{what} do not fit this machine: {told}; lower their number or what each asks"
    )
