"""The pass under `kill -9`: nothing lost, nothing twice, nothing half done, little repeated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
from tests.generate.rows import Answer, answers, pairs, write_pairs

from rayonale import records, storage
from rayonale.generate import finish, stream
from rayonale.generate.pool import EnginePool, Engines
from rayonale.generate.replica import Replica
from rayonale.generate.settings import EngineOptions
from rayonale.generate.stream import Rejection

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pool(engines: Any, tinyworld_model: Path) -> EnginePool:
    return engines.get(str(tinyworld_model))


def test_rows_rejects_and_a_rerun_that_does_nothing(pool: EnginePool, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    broken = pairs(30)
    broken[5]["prompt"] = [{"role": "user", "content": "bird " * 3_000}]
    storage.write_rows(str(folder), broken, records.PAIR)
    work, out = str(tmp_path / "work"), str(tmp_path / "out")
    report = stream.generate(str(folder), work, Answer(), pool, identity="a", unit_rows=7)
    count, rejects = finish.split(work, out)
    assert (report.rows, report.rows_resumed, count) == (30, 0, 29)
    assert rejects == {"limit": {"over_long": 1}}
    assert all(len(texts) == 2 for texts in answers(f"{out}/rows").values())
    (reject,) = storage.read_rows(f"{out}/rejects")
    assert (reject["id"], reject["line"]) == (broken[5]["id"], 6)
    before = {path: Path(path).stat().st_mtime_ns for path in storage.parquet_files(work)}
    again = stream.generate(str(folder), work, Answer(), pool, identity="a", unit_rows=7)
    assert (again.rows_resumed, again.tokens) == (30, 0)
    assert before == {path: Path(path).stat().st_mtime_ns for path in storage.parquet_files(work)}
    assert finish.split(work, out) == (count, rejects)


def test_threads_of_the_driver_give_the_same_rows(pool: EnginePool, tmp_path: Path) -> None:
    folder = write_pairs(str(tmp_path / "rows"), 40)
    found = []
    for in_driver in (False, True):
        work, out = str(tmp_path / f"work-{in_driver}"), str(tmp_path / f"out-{in_driver}")
        report = stream.generate(
            folder, work, Answer(), pool, identity="a", unit_rows=9, in_driver=in_driver
        )
        assert report.rows == 40 and report.tokens > 0
        finish.split(work, out)
        found.append(list(storage.read_rows(f"{out}/rows")))
    assert found[0] == found[1] and len(found[0]) == 40


def test_change_may_reject_and_an_empty_result_keeps_its_columns(
    pool: EnginePool, tmp_path: Path
) -> None:
    rows = write_pairs(str(tmp_path / "rows"), 6)
    work, out = str(tmp_path / "work"), str(tmp_path / "out")
    stream.generate(rows, work, Answer(n=1), pool, identity="a")
    no = Rejection(records.RejectKind.FILTERED, "not_wanted", "by this test")
    assert finish.split(work, out, lambda row: no) == (0, {"filtered": {"not_wanted": 6}})
    assert "answers" in storage.schema(f"{out}/rows").names


def test_driver_killed_in_the_middle_then_the_same_call(
    pool: EnginePool, tinyworld_model: Path, tmp_path: Path
) -> None:
    rows = write_pairs(str(tmp_path / "rows"), 400)
    work, clean = str(tmp_path / "work"), str(tmp_path / "clean")
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'platform'}:{REPOSITORY}"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "tests.generate.driver", str(tinyworld_model), rows, work]
    driver = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert driver.stdout is not None
    engine = int(next(line for line in driver.stdout if line.startswith("pid")).split()[1])
    deadline = time.monotonic() + 120
    while len(storage.parquet_files(work)) < 5:
        assert driver.poll() is None, "the driver ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    _until_gone(engine)
    kept = set(storage.parquet_files(work))
    rows_kept = sum(pq.read_metadata(path).num_rows for path in kept)
    assert 0 < rows_kept < 400, "killed too late to test anything"
    times = {path: Path(path).stat().st_mtime_ns for path in kept}

    report = stream.generate(rows, work, Answer(), pool, identity="test", unit_rows=4)
    assert report.rows_resumed == rows_kept
    assert times == {path: Path(path).stat().st_mtime_ns for path in kept}  # not done again
    stream.generate(rows, clean, Answer(), pool, identity="test", unit_rows=4)
    resumed = answers(work)
    assert resumed == answers(clean)  # float32: the same ids and the same texts
    assert len(resumed) == 400
    assert all(len(texts) == 2 for texts in resumed.values())


def _until_gone(pid: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.2)
    raise AssertionError(f"engine process {pid} outlived its driver")


@pytest.mark.slow  # restarts a real engine: minutes on a busy machine
def test_engine_killed_in_the_middle_is_replaced(pool: EnginePool, tmp_path: Path) -> None:
    rows = write_pairs(str(tmp_path / "rows"), 200)
    work, clean = str(tmp_path / "work"), str(tmp_path / "clean")
    engine = ray.get(pool.replicas[0].ready.remote())

    def kill_when_under_way() -> None:
        while len(storage.parquet_files(work)) < 3:
            time.sleep(0.02)
        os.kill(engine, signal.SIGKILL)

    killer = threading.Thread(target=kill_when_under_way, daemon=True)
    killer.start()
    report = stream.generate(rows, work, Answer(), pool, identity="a", unit_rows=4)
    assert ray.get(pool.replicas[0].ready.remote()) != engine
    assert (report.rows, report.rows_resumed, report.rejects["rows"]) == (200, 0, 0)
    stream.generate(rows, clean, Answer(), pool, identity="a", unit_rows=4)
    assert answers(work) == answers(clean)


class Fragile(Replica):
    """A replica that a certain prompt kills, as a fault in a kernel would."""

    def generate(self, weights: Any, requests: Any, *rest: Any, **more: Any) -> Any:
        if any("(13)" in message["content"] for r in requests for message in r.messages):
            time.sleep(0.3)  # so that other batches are under way
            os.kill(os.getpid(), signal.SIGKILL)
        return super().generate(weights, requests, *rest, **more)


@pytest.mark.slow  # four restarts of a real engine; test_client.py has the same without engines
def test_a_row_that_kills_the_engine_is_found_and_the_others_survive(
    pool: EnginePool, tinyworld_model: Path, tmp_path: Path
) -> None:
    rows = write_pairs(str(tmp_path / "rows"), 24)
    work, clean = str(tmp_path / "work"), str(tmp_path / "clean")
    with Engines(replica_class=Fragile) as fragile:
        weak = fragile.get(str(tinyworld_model), EngineOptions(max_restarts=4))
        stream.generate(rows, work, Answer(), weak, identity="a", unit_rows=6)
    count, rejects = finish.split(work, str(tmp_path / "out"))
    assert (count, rejects) == (23, {"invalid": {"engine_killed": 1}})
    (reject,) = storage.read_rows(str(tmp_path / "out" / "rejects"))
    assert reject["id"] == f"{13:032x}"
    stream.generate(rows, clean, Answer(), pool, identity="a", unit_rows=6)
    expected = answers(clean)
    del expected[f"{13:032x}"]
    assert answers(str(tmp_path / "out" / "rows")) == expected
