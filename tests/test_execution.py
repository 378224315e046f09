"""The order of stages when several may run at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import pytest

from rayonale.execution import in_order
from rayonale.recipe import PlannedStage
from rayonale.stages import Settings, Stage, StageOutput, StageResult


def planned(name: str, *reads: str, beside: bool = False) -> PlannedStage:
    stage = Stage("x", Settings, lambda context, settings: StageResult(), beside=beside)
    return PlannedStage(name, stage, Settings(), {"rows": list(reads)})


def cells(number: int) -> list[PlannedStage]:
    return [
        planned("pairs"), *(planned(f"cell{n}", "pairs", beside=True) for n in range(number)),
        planned("compared", *(f"cell{n}" for n in range(number))),
    ]  # fmt: skip


class Runner:
    """Notes what ran together; the cells named in `meet` wait until all of them are running."""

    def __init__(self, meet: tuple[str, ...] = (), fails: str = "") -> None:
        self.lock, self.running, self.most = threading.Lock(), set[str](), 0
        self.order: list[str] = []
        self.meet, self.fails = meet, fails
        self.barrier = threading.Barrier(len(meet)) if meet else None

    def __call__(self, stage: PlannedStage, done: Mapping[str, StageOutput]) -> StageOutput:
        assert set(stage.upstream()) <= set(done)
        with self.lock:
            self.order.append(stage.name)
            self.running.add(stage.name)
            self.most = max(self.most, len(self.running))
            if not stage.stage.beside:
                assert self.running == {stage.name}, "it runs alone"
        if stage.name in self.meet and self.barrier is not None:
            self.barrier.wait(timeout=10)
            if self.fails and stage.name != self.fails:
                time.sleep(0.5)  # longer than the failure takes to be seen
        with self.lock:
            self.running.remove(stage.name)
        if stage.name == self.fails:
            raise ValueError(f"{stage.name} failed")
        return StageOutput(stage.name, f"out/{stage.name}", "f" * 32)


def test_one_by_one_by_default() -> None:
    runner = Runner()
    found = in_order(cells(3), runner)
    assert runner.order == list(found) == ["pairs", "cell0", "cell1", "cell2", "compared"]
    assert runner.most == 1


def test_cells_run_side_by_side_and_what_reads_them_waits() -> None:
    runner = Runner(meet=("cell0", "cell1"))  # neither ends before the other runs
    found = in_order(cells(4), runner, parallel=2)
    assert runner.most == 2 and set(found) == {s.name for s in cells(4)}
    assert runner.order[0] == "pairs" and runner.order[-1] == "compared"


def test_a_failure_starts_nothing_new_and_loses_nothing_that_runs() -> None:
    runner = Runner(meet=("cell0", "cell1"), fails="cell0")
    with pytest.raises(ValueError, match="cell0 failed"):
        in_order(cells(4), runner, parallel=2)
    assert {"cell0", "cell1"} <= set(runner.order) and "compared" not in runner.order
    assert "cell3" not in runner.order and not runner.running


def test_cells_that_are_ready_go_before_a_stage_that_would_wait_for_them() -> None:
    stages = [
        planned("a", beside=True), planned("alone"), planned("b", beside=True), planned("c", "b"),
    ]  # fmt: skip
    runner = Runner(meet=("a", "b"))
    found = in_order(stages, runner, parallel=2)
    assert set(found) == {"a", "alone", "b", "c"}
