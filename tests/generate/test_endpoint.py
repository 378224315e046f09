"""A judge behind an endpoint: a local server that limits, fails and talks garbage."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from tests.evaluate.test_win_rates import context, rejects_of, rows_of, sampled
from tests.generate.endpoint_server import Answer, Server, options, said
from tests.report.realistic import pair_rows, samples

from rayonale.evaluate.win_rates import WinRateSettings, run
from rayonale.generate.endpoint import (
    BudgetSpent,
    EndpointClient,
    EndpointRefused,
)
from rayonale.generate.settings import Completion, Request, Sampling
from rayonale.records import Message

GREEDY = Sampling(temperature=0, max_tokens=16)


def ask(client: EndpointClient, *texts: str, top: int = 0) -> list[Completion]:
    rows = [[Request([Message(role="user", content=t)], top_logprobs=top)] for t in texts]
    return [row[0] for row in client.generate(rows, GREEDY)]


def test_answers_come_back_in_order_and_cost_is_counted(server: Server) -> None:
    def script(number: int, body: dict[str, Any]) -> Answer:
        time.sleep(0.02 * (number % 3))
        return said(body["messages"][0]["content"].upper())

    server.script = script
    client = EndpointClient(options(server, input_price=2.0, output_price=5.0))
    found = ask(client, *(f"q{n}" for n in range(20)))
    assert [one.text for one in found] == [f"Q{n}" for n in range(20)]
    assert (found[0].tokens, found[0].prompt_tokens, found[0].finish_reason) == (4, 10, "stop")
    assert client.usage.cost == pytest.approx(20 * (10 * 2 + 4 * 5) / 1e6)
    assert (client.usage.requests, client.usage.retries, client.usage.failed) == (20, 0, 0)


@pytest.mark.parametrize(
    "bad",
    [
        (429, "slow down", {"retry-after": "0.01"}),
        (500, "oops", {}),
        (503, "", {}),
        (200, "<html>not JSON", {}),
        (200, {"choices": []}, {}),
        (200, {"error": "none"}, {}),
        (200, [1, 2], {}),
    ],
)
def test_what_passes_is_tried_again(server: Server, bad: Answer) -> None:
    server.script = lambda number, body: bad if number < 2 else said("at last")
    client = EndpointClient(options(server))
    assert ask(client, "q")[0].text == "at last"
    assert (client.usage.requests, client.usage.retries, client.usage.failed) == (3, 2, 0)


def test_what_does_not_pass_is_an_error_of_its_row_alone(server: Server) -> None:
    def script(number: int, body: dict[str, Any]) -> Answer:
        return (500, "oops", {}) if body["messages"][0]["content"] == "bad" else said("fine")

    server.script = script
    client = EndpointClient(options(server, retries=2))
    good, bad, last = ask(client, "good", "bad", "good")
    assert good.text == last.text == "fine"
    assert bad.error == "endpoint_failed" and "3 tries; the last: 500 oops" in bad.detail
    assert client.usage.failed == 1
    server.script = lambda number, body: (400, "too long", {})
    assert ask(client, "q")[0].error == "refused"  # asked once: the answer would be the same
    assert client.usage.requests == 6


@pytest.mark.parametrize(
    "told",
    [
        {"error": {"message": "too long", "code": "context_length_exceeded"}},
        {"error": {"message": "This model's maximum context length is 16 tokens."}},
    ],
)
def test_a_prompt_too_long_for_the_endpoint_is_that_limit(server: Server, told: Any) -> None:
    """The reason that an engine here would give, so that a row's reject does not depend on it."""
    server.script = lambda number, body: (400, told, {})
    client = EndpointClient(options(server))
    assert ask(client, "q")[0].error == "over_long"
    assert client.usage.requests == 1


def test_an_endpoint_that_is_not_there(server: Server) -> None:
    gone = options(server, url="http://127.0.0.1:9/v1", retries=1)
    assert "ConnectError" in ask(EndpointClient(gone), "q")[0].detail


def test_what_no_retry_mends_stops_the_job(server: Server) -> None:
    server.script = lambda number, body: (401, "bad key", {})
    with pytest.raises(EndpointRefused, match="401 bad key"):
        ask(EndpointClient(options(server, concurrency=1)), "a", "b", "c")
    assert len(server.seen) <= 3


def test_the_budget_ends_it(server: Server) -> None:
    client = EndpointClient(options(server, output_price=1e6, max_cost=8, concurrency=1))
    with pytest.raises(BudgetSpent, match=r"8\.0000 spent on 2 requests; max_cost is 8"):
        ask(client, "a", "b", "c", "d")
    assert len(server.seen) == 2
    with pytest.raises(ValueError, match="max_cost without input_price or output_price"):
        EndpointClient(options(server, max_cost=1))


def test_the_rate_limit_spreads_requests(server: Server) -> None:
    client = EndpointClient(options(server, requests_per_minute=1_200))  # one in 50 ms
    ask(client, *"abcde")
    times = sorted(at for at, _, _ in server.seen)
    assert times[-1] - times[0] > 0.15  # without a limit they start at once


def test_answers_without_usage_are_counted_apart(server: Server) -> None:
    server.script = lambda number, body: (200, {"choices": said("x")[1]["choices"]}, {})
    client = EndpointClient(options(server, output_price=1))
    ask(client, "a", "b")
    assert (client.usage.unpriced, client.usage.cost) == (2, 0)


def test_the_key_comes_from_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("A_KEY", raising=False)
    with pytest.raises(ValueError, match="the environment has no A_KEY"):
        EndpointClient(options(server, key_env="A_KEY"))
    monkeypatch.setenv("A_KEY", "secret")
    ask(EndpointClient(options(server, key_env="A_KEY")), "q")
    assert server.seen[0][2] == "Bearer secret"


def test_logprobs_and_settings_are_passed_on(server: Server) -> None:
    content = [{"token": "2", "logprob": -0.1, "top_logprobs": [{"token": "1", "logprob": -2.4}]}]
    server.script = lambda number, body: said("2", logprobs={"content": content})
    (found,) = ask(EndpointClient(options(server)), "q", top=5)
    assert found.steps[0].text == "2" and found.steps[0].top == {"2": -0.1, "1": -2.4}
    body = server.seen[0][1]
    assert (body["model"], body["max_tokens"], body["top_logprobs"]) == ("judge", 16, 5)
    assert "seed" not in body
    with pytest.raises(ValueError, match="top_k 5: an endpoint has no such field"):
        EndpointClient(options(server)).generate(
            [[Request([Message(role="user", content="q")])]], Sampling(top_k=5)
        )


def test_a_judge_behind_an_endpoint_in_the_stage(tmp_path: Path, server: Server) -> None:
    def script(number: int, body: dict[str, Any]) -> Answer:
        if number % 5 == 0:
            return 429, "slow down", {"retry-after": "0"}
        if number % 7 == 0:
            return 200, "garbage", {}
        return said("The first one. [RESULT] 1")

    server.script = script
    prompts = pair_rows(12)
    outputs = [sampled(tmp_path, name, samples(name, share, prompts))
               for name, share in (("poor", 0.2), ("good", 0.95))]  # fmt: skip
    judge = {"kind": "endpoint", "sampling": {"temperature": 0, "max_tokens": 64},
             "endpoint": options(server, unit_rows=4, output_price=1.0).model_dump()}  # fmt: skip
    where = context(tmp_path, outputs)
    settings = WinRateSettings.model_validate({"judges": [judge]})
    result = run(where, settings)
    assert len(rows_of(where)) == 12 and not rejects_of(where)
    (entry,) = result.details["win_rates"]
    assert (entry["value"], entry["flip_rate"], entry["first_share"]) == (0.5, 1.0, 1.0)
    (fact,) = result.details["judges"]
    assert fact["model"] == "judge" and fact["retries"] > 0
    assert fact["cost"] == pytest.approx(24 * 4 / 1e6)
    # killed and started again: what was answered is not asked for again
    asked = len(server.seen)
    again = run(where, settings)
    assert len(server.seen) == asked
    assert again.details["win_rates"] == result.details["win_rates"]
