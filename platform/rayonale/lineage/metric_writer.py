"""Metrics reach MLflow from a thread of their own, in batches.

Logging a step costs microseconds: values are put in a list, and a thread sends them once a
second. A tracking server that goes away slows nothing down; what could not be sent is kept, sent
when the server is back, or else handed to the manifest at the end.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

log = logging.getLogger("rayonale")

FLUSH_SECONDS = 1.0
RETRY_SECONDS = 30.0  # between attempts while the server does not answer
BATCH = 1_000  # metrics in one request: MLflow's limit


class Point(NamedTuple):
    """One value of one metric; `timestamp` in milliseconds since 1970."""

    key: str
    value: float
    timestamp: int
    step: int


class MetricWriter:
    """Sends metrics of one run in the background."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client, self._run_id = client, run_id
        self._pending: list[Point] = []
        self._lock = threading.Lock()  # guards _pending
        self._sending = threading.Lock()  # one sender at a time keeps points in order
        self._stop = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._work, name="mlflow-metrics", daemon=True)
        self._thread.start()

    def write(self, values: Mapping[str, float], step: int | None) -> None:
        """Queue values; `step` is 0 when not given, as in MLflow."""
        now, at = int(time.time() * 1_000), step or 0
        points = [Point(metric_key(k), float(v), now, at) for k, v in values.items()]
        with self._lock:
            self._pending.extend(points)

    def close(self) -> list[Point]:
        """Send what is left; returns what could not be sent."""
        self._stop.set()
        self._thread.join(timeout=RETRY_SECONDS)
        self._send()
        return self._pending

    def _work(self) -> None:
        wait = FLUSH_SECONDS
        while not self._stop.wait(wait):
            wait = FLUSH_SECONDS if self._send() else RETRY_SECONDS

    def _send(self) -> bool:
        """Send all that is pending; False when the server does not take it."""
        from mlflow.entities import Metric

        with self._sending:
            while True:
                with self._lock:
                    batch = self._pending[:BATCH]
                if not batch:
                    return True
                try:
                    self._client.log_batch(self._run_id, metrics=[Metric(*p) for p in batch])
                except Exception as error:
                    if not self._lost:
                        log.warning(
                            "MLflow does not take metrics of run %s (%s); the work goes on, "
                            "metrics are kept and sent when it is back",
                            self._run_id,
                            first_line(error),
                        )
                    self._lost = True
                    return False
                with self._lock:
                    del self._pending[: len(batch)]
                if self._lost:
                    log.warning("MLflow takes metrics of run %s again", self._run_id)
                    self._lost = False


def metric_key(name: str) -> str:
    """`name` with the characters that MLflow refuses replaced by `_`."""
    return re.sub(r"[^\w\-./ :]", "_", name)[:250]


def finite(value: float) -> float | None:
    """`value`, or None where JSON has no word for it."""
    return value if math.isfinite(value) else None


def first_line(error: BaseException) -> str:
    """Type and first line of an error, for one line of log."""
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
