"""Numbers for Prometheus, exported by Ray beside its own (Ray's metrics port of each node).

rayonale_serve_requests{route,model,status}         counter
rayonale_serve_latency_seconds{route,model}         histogram, the whole request
rayonale_serve_first_token_seconds{model}           histogram, of streams
rayonale_serve_tokens{model,kind}                   counter, kind: prompt | completion
rayonale_serve_in_flight                            gauge
rayonale_serve_reward{model}                        histogram
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ray.util.metrics import Counter, Gauge, Histogram

_SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300]
# Ray's histograms take positive boundaries only, so rewards are counted by hand.
_REWARDS = (-20, -10, -5, -2, -1, -0.5, 0, 0.5, 1, 2, 5, 10, 20, math.inf)


class Metrics:
    """The endpoint's metrics in this process."""

    def __init__(self) -> None:
        self._requests = Counter(
            "rayonale_serve_requests", "Requests answered.", ("route", "model", "status")
        )
        self._latency = Histogram(
            "rayonale_serve_latency_seconds",
            "From a request's arrival to the end of its answer.",
            _SECONDS,
            ("route", "model"),
        )
        self._first = Histogram(
            "rayonale_serve_first_token_seconds",
            "From a request's arrival to the first token of a stream.",
            _SECONDS,
            ("model",),
        )
        self._tokens = Counter("rayonale_serve_tokens", "Tokens.", ("model", "kind"))
        self._in_flight = Gauge("rayonale_serve_in_flight", "Requests worked on or waiting.")
        self._reward = Counter("rayonale_serve_rewards", "Rewards given.", ("model", "le"))

    def in_flight(self, count: int) -> None:
        """Requests that are here now."""
        self._in_flight.set(count)

    def finished(self, route: str, model: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.inc(1, {"route": route, "model": model, "status": str(status)})
        self._latency.observe(max(seconds, 1e-6), {"route": route, "model": model})

    def first_token(self, model: str, seconds: float) -> None:
        """A stream's first token left."""
        self._first.observe(max(seconds, 1e-6), {"model": model})

    def tokens(self, model: str, prompt: int, completion: int) -> None:
        """A request's tokens."""
        if prompt:
            self._tokens.inc(prompt, {"model": model, "kind": "prompt"})
        if completion:
            self._tokens.inc(completion, {"model": model, "kind": "completion"})

    def rewards(self, model: str, values: Sequence[float]) -> None:
        """Rewards that were given."""
        for bound in _REWARDS:
            count = sum(value <= bound for value in values)
            if count:
                self._reward.inc(count, {"model": model, "le": f"{bound:g}"})
