"""Ray Data's own processes, started while the engines start.

The first execution of Ray Data in a session starts three of its actors and a worker, some seconds
of work each. An engine's start keeps one core busy for far longer, so this is done beside it: the
first pass would otherwise share its cores with it.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

log = logging.getLogger("rayonale")

_started = threading.Event()
_WAIT_S = 60.0  # then the pass starts anyway


def begin() -> threading.Thread | None:
    """Start it on a thread, once per process; None when it was done before."""
    if _started.is_set():
        return None
    _started.set()
    thread = threading.Thread(target=_run, daemon=True, name="ray-data-warm-up")
    thread.start()
    return thread


def finish(thread: threading.Thread | None) -> None:
    """Wait for it, but not for ever: nothing depends on it."""
    if thread is not None:
        thread.join(_WAIT_S)


def _run() -> None:
    import ray

    from rayonale.generate import stream

    try:
        stream.quiet()
        ray.data.from_items([{"x": 0}]).map_batches(_same, num_cpus=0).take_all()
    except Exception as error:  # only a head start is lost
        log.debug("Ray Data was not warmed up: %s", error)


def _same(batch: dict[str, Any]) -> dict[str, Any]:
    return batch
