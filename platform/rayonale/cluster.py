"""Connecting to Ray: the cluster that runs this job, or a local session.

Inside `ray job submit` (and wherever RAY_ADDRESS is set) the running cluster is used; elsewhere
a session is started for this process and ends with it.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import ray

log = logging.getLogger("rayonale")

OBJECT_STORE_BYTES = 1 << 30  # of a local session; rows stream through, they do not pile up


def connect(num_cpus: int | None = None) -> dict[str, Any]:
    """Connect to Ray once per process; later calls change nothing.

    Args:
        num_cpus: cores of a local session (default: all).

    Returns:
        The cluster's resources.
    """
    if not ray.is_initialized():
        quiet: dict[str, Any] = {"log_to_driver": True, "logging_level": logging.WARNING}
        if os.environ.get("RAY_ADDRESS"):
            ray.init(**quiet)
        else:
            ray.init(
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
