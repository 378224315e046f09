"""Load on an OpenAI-compatible endpoint: the same requests for every server.

Each client sends one request after the other, so `clients` requests are in flight at all times.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp

# Seconds after which a request counts as failed.
_LATEST_S = 180


@dataclass
class Measured:
    """What a load gave.

    Attributes:
        latencies, first_tokens: seconds, of each request that was answered.
        tokens: drawn in all.
        failed: requests by what they got instead of an answer.
    """

    clients: int
    stream: bool
    seconds: float = 0.0
    tokens: int = 0
    latencies: list[float] = field(default_factory=list)
    first_tokens: list[float] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)

    def numbers(self) -> dict[str, Any]:
        """In one line of a table; times in milliseconds."""
        return {
            "clients": self.clients,
            "stream": self.stream,
            "tokens_per_s": round(self.tokens / self.seconds),
            "requests_per_s": round(len(self.latencies) / self.seconds, 1),
            "p50_ms": quantile(self.latencies, 0.5),
            "p99_ms": quantile(self.latencies, 0.99),
            "first_p50_ms": quantile(self.first_tokens, 0.5),
            "first_p99_ms": quantile(self.first_tokens, 0.99),
            "requests": len(self.latencies),
            "failed": self.failed,
        }


def quantile(values: list[float], share: float) -> float | None:
    """In milliseconds, of seconds; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1_000, 1)


def request(model: str, number: int, tokens: int, stream: bool) -> dict[str, Any]:
    """The request of that number; the end of a turn is passed over, so that all are as long."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": f"Name two birds and {number % 97} more."}],
        "max_tokens": tokens,
        "temperature": 1.0,
        "ignore_eos": True,
        "stream": stream,
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    return body


async def measure(
    url: str, model: str, key: str, *, clients: int, requests: int, tokens: int, stream: bool
) -> Measured:
    """Send requests and measure them."""
    found, numbers = Measured(clients, stream), iter(range(requests))
    headers = {"authorization": f"Bearer {key}"}
    limit = aiohttp.ClientTimeout(total=_LATEST_S)
    connections = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(headers=headers, timeout=limit, connector=connections) as http:

        async def client() -> None:
            for number in numbers:
                body = request(model, number, tokens, stream)
                try:
                    await _one(http, f"{url}/v1/chat/completions", body, found)
                except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                    what = f"{type(error).__name__}: {error}"[:100]
                    found.failed[what] = found.failed.get(what, 0) + 1

        begun = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        found.seconds = time.perf_counter() - begun
    return found


async def _one(http: Any, url: str, body: dict[str, Any], found: Measured) -> None:
    begun = time.perf_counter()
    first = usage = None
    async with http.post(url, json=body) as answer:
        if answer.status != 200:
            raise ValueError(f"status {answer.status}")
        if body["stream"]:
            async for line in answer.content:
                if first is None and b'"content":"' in line and b'"content":""' not in line:
                    first = time.perf_counter() - begun
                if b'"usage":{' in line:
                    usage = json.loads(line[6:])["usage"]
                if line.startswith(b'data: {"error"'):
                    raise ValueError("the stream broke off")
        else:
            usage = (await answer.json())["usage"]
    if usage is None:
        raise ValueError("no usage was told")
    found.latencies.append(time.perf_counter() - begun)
    found.tokens += usage["completion_tokens"]
    if first is not None:
        found.first_tokens.append(first)
