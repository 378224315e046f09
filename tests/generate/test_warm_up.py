"""Ray Data started beside the engines: once, and never in the way."""

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from rayonale.generate import stream, warm_up


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    monkeypatch.setattr(warm_up, "_started", threading.Event())
    with caplog.at_level(logging.DEBUG, logger="rayonale"):
        yield


def test_once(ray_session: None, caplog: pytest.LogCaptureFixture) -> None:
    first = warm_up.begin()
    assert first is not None
    assert warm_up.begin() is None
    warm_up.finish(first)
    warm_up.finish(None)
    assert not first.is_alive()
    assert "not warmed up" not in caplog.text


def test_a_failure_costs_only_the_head_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no Ray here")

    monkeypatch.setattr(stream, "quiet", broken)
    warm_up.finish(warm_up.begin())
    assert "not warmed up: no Ray here" in caplog.text
