"""Completions from any OpenAI-compatible endpoint, with the interface of an engine's client.

    requests ─ threads ─ rate limit ─► POST <url>/chat/completions ─► Completion, cost counted
                  ▲                      429, 5xx, no answer, garbage
                  └────── back-off ◄─────┘   (Retry-After is followed)

What stays bad after the retries is a completion with an error, so its row becomes a reject. What no
retry can mend (a refused key, an unknown model, the budget spent) stops the job.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, Field

from rayonale.generate.settings import Completion, Request, Sampling, Step

log = logging.getLogger("rayonale")

_HOPELESS = (401, 403, 404)  # the key, the right, the address or the model: for every request
_LONGEST_WAIT_S = 60.0


class EndpointOptions(BaseModel):
    """Where and how to ask.

    Attributes:
        url: up to and without `/chat/completions`, such as `http://localhost:8000/v1`.
        served_model: name of the model there.
        key_env: environment variable that holds the key; None sends none.
        concurrency: requests at a time.
        requests_per_minute: started in any minute, retries included; None is no limit.
        retries: further tries of a request after the first.
        backoff_s: wait before the first retry; doubled each time, up to 60 s, and varied.
        timeout_s: seconds that one try may take.
        input_price, output_price: of a million tokens; the currency is the user's.
        max_cost: the job stops when this much is spent (requests in flight, at most
            `concurrency`, still come on top); needs a price.
        unit_rows: rows whose answers are kept at a time: what a kill can cost.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(pattern=r"^https?://")
    served_model: str = Field(min_length=1)
    key_env: str | None = None
    concurrency: int = Field(8, ge=1)
    requests_per_minute: float | None = Field(None, gt=0)
    retries: int = Field(5, ge=0)
    backoff_s: float = Field(1.0, gt=0)
    timeout_s: float = Field(120, gt=0)
    input_price: float = Field(0.0, ge=0)
    output_price: float = Field(0.0, ge=0)
    max_cost: float | None = Field(None, gt=0)
    unit_rows: int = Field(32, ge=1)


class EndpointRefused(RuntimeError):
    """The endpoint will not answer whatever is asked; says with what and why."""


class BudgetSpent(RuntimeError):
    """The cost so far reached `max_cost`."""


@dataclass
class Usage:
    """What was spent in this process.

    Attributes:
        requests: HTTP requests, retries among them; retries: those alone.
        failed: completions that stayed without an answer.
        unpriced: answers that did not say how many tokens they took: the cost lacks them.
        cost: in the prices' currency.
    """

    requests: int = 0
    retries: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unpriced: int = 0
    cost: float = 0.0


class _Retry(Exception):
    """This try failed; another may not. `after` is what the endpoint asked to wait, in seconds."""

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


class EndpointClient:
    """Thread-safe; `generate` is that of `rayonale.generate.client.Client`."""

    def __init__(self, options: EndpointOptions) -> None:
        if options.max_cost is not None and not (options.input_price or options.output_price):
            raise ValueError("max_cost without input_price or output_price: nothing has a cost")
        self._options = options
        self.usage = Usage()
        self._lock = threading.Lock()
        self._next = 0.0  # when the rate limit lets the next request start
        self._http = httpx.Client(timeout=options.timeout_s, headers=_headers(options))

    def client(self) -> EndpointClient:
        """Itself: where an engine pool makes clients, an endpoint is one."""
        return self

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def generate(
        self,
        rows: list[list[Request]],
        sampling: Sampling,
        json_schema: dict[str, Any] | None = None,
        logprobs: bool = False,
    ) -> list[list[Completion]]:
        """Completions of each row's requests, in order.

        Raises:
            EndpointRefused: 401, 403 or 404.
            BudgetSpent: `max_cost` is reached; what was answered before is counted.
        """
        flat = [request for row in rows for request in row]
        with ThreadPoolExecutor(self._options.concurrency) as threads:
            futures = [
                threads.submit(
                    self._one, _body(self._options, one, sampling, json_schema, logprobs)
                )
                for one in flat
            ]
            try:
                found = iter([future.result() for future in futures])
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise
        return [[next(found) for _ in row] for row in rows]

    def _one(self, body: Mapping[str, Any]) -> Completion:
        why = ""
        for attempt in range(self._options.retries + 1):
            self._check_budget()
            self._wait_for_turn()
            with self._lock:
                self.usage.requests += 1
                self.usage.retries += attempt > 0
            try:
                return self._try(body)
            except _Retry as error:
                why = str(error)
                if attempt < self._options.retries:
                    time.sleep(self._pause(attempt, error.after))
        with self._lock:
            self.usage.failed += 1
        detail = f"{self._options.retries + 1} tries; the last: {why}"
        return Completion(error="endpoint_failed", detail=detail)

    def _try(self, body: Mapping[str, Any]) -> Completion:
        url = self._options.url.rstrip("/") + "/chat/completions"
        try:
            answer = self._http.post(url, json=body)
        except httpx.TransportError as error:
            raise _Retry(f"{type(error).__name__}: {error}") from error
        if answer.status_code in _HOPELESS:
            raise EndpointRefused(f"{url}: {answer.status_code} {answer.text[:300]}")
        if answer.status_code in (408, 409, 429) or answer.status_code >= 500:
            raise _Retry(f"{answer.status_code} {answer.text[:200]}", _retry_after(answer))
        if answer.status_code >= 300:
            detail = f"{answer.status_code} {answer.text[:300]}"
            return Completion(error=_refusal(answer.text), detail=detail)
        try:
            told = answer.json()
            completion = _completion(told)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            self._count({})  # an answer was given, and perhaps charged for
            raise _Retry(f"garbage: {answer.text[:200]!r} ({error!r})") from error
        self._count(told.get("usage") or {})
        return completion

    def _count(self, usage: Mapping[str, Any]) -> None:
        given, made = usage.get("prompt_tokens"), usage.get("completion_tokens")
        with self._lock:
            if not isinstance(given, int) or not isinstance(made, int):
                self.usage.unpriced += 1
                return
            self.usage.prompt_tokens += given
            self.usage.completion_tokens += made
            options = self._options
            self.usage.cost += (given * options.input_price + made * options.output_price) / 1e6

    def _check_budget(self) -> None:
        limit = self._options.max_cost
        if limit is not None and self.usage.cost >= limit:
            raise BudgetSpent(
                f"{self.usage.cost:.4f} spent on {self.usage.requests} requests; max_cost is "
                f"{limit}: raise it to go on from here"
            )

    def _wait_for_turn(self) -> None:
        if self._options.requests_per_minute is None:
            return
        apart = 60 / self._options.requests_per_minute
        with self._lock:
            start = max(self._next, time.monotonic())
            self._next = start + apart
        time.sleep(max(0.0, start - time.monotonic()))

    def _pause(self, attempt: int, after: float | None) -> float:
        if after is not None:
            return min(after, _LONGEST_WAIT_S)
        longest = min(self._options.backoff_s * 2**attempt, _LONGEST_WAIT_S)
        return longest * random.uniform(0.5, 1.0)  # requests that failed together come back apart


def _headers(options: EndpointOptions) -> dict[str, str]:
    if options.key_env is None:
        return {}
    key = os.environ.get(options.key_env)
    if not key:
        raise ValueError(f"key_env: the environment has no {options.key_env}; expected the key")
    return {"Authorization": f"Bearer {key}"}


def _body(
    options: EndpointOptions,
    request: Request,
    sampling: Sampling,
    json_schema: dict[str, Any] | None,
    logprobs: bool,
) -> dict[str, Any]:
    """The request as OpenAI's protocol has it; `top_k` is none of its fields."""
    sampling = request.sampled(sampling)
    if sampling.top_k:
        raise ValueError(f"sampling.top_k {sampling.top_k}: an endpoint has no such field; set 0")
    body: dict[str, Any] = {
        "model": options.served_model,
        "messages": [dict(message) for message in request.messages],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
    }
    if request.seed is not None:
        body["seed"] = request.seed
    if request.top_logprobs or logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    if json_schema is not None:
        schema = {"name": "answer", "schema": json_schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _completion(told: Mapping[str, Any]) -> Completion:
    choice = told["choices"][0]
    usage = told.get("usage") or {}
    steps = (choice.get("logprobs") or {}).get("content") or ()
    return Completion(
        text=str(choice["message"]["content"] or ""),
        tokens=int(usage.get("completion_tokens") or 0),
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        finish_reason=str(choice.get("finish_reason") or ""),
        logprob=sum(float(one["logprob"]) for one in steps) if steps else None,
        steps=tuple(_step(one) for one in steps),
    )


def _step(told: Mapping[str, Any]) -> Step:
    top = {one["token"]: float(one["logprob"]) for one in told.get("top_logprobs") or ()}
    return Step(told["token"], {told["token"]: float(told["logprob"]), **top})


def _refusal(told: str) -> str:
    """Reason code: a prompt that is too long there is the same reject as one that is too long here.

    OpenAI and the service of this project name it by code, vLLM's server by these words.
    """
    long = "context_length_exceeded" in told or "maximum context length" in told
    return "over_long" if long else "refused"


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds that the endpoint asks to wait; None where it does not say (or gives a date)."""
    try:
        return max(0.0, float(answer.headers["retry-after"]))
    except (KeyError, ValueError):
        return None
