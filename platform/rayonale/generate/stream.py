"""The pass: Parquet rows in, Parquet rows out, through a pool of engines, over Ray Data.

    units (units.py) ─ Ray Data ─► worker threads: read ─ task.requests ─► engines
                                                   task.collect ◄─ completions
                                   one file a unit in work/, a line of numbers to the driver
    finish: work/ ─► rows/ and rejects/

Only unit numbers and counts pass through the driver, so its memory does not grow with the rows.
Several units are in flight on each replica, so the engines' batches never run dry between units.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol

import pyarrow as pa
import ray

from rayonale import records, storage
from rayonale.generate import units as cutting
from rayonale.generate.pool import EnginePool
from rayonale.generate.settings import Completion, Request, Sampling
from rayonale.generate.units import Unit

log = logging.getLogger("rayonale")

STATUS = pa.struct([("kind", pa.string()), ("reason", pa.string()), ("detail", pa.string())])
STATUS_COLUMN = "_reject"  # column of the unit files: null for rows that go on
_IN_FLIGHT = 12  # units a replica works on at once, beside those that fill its batch
_REPORT_S = 5.0


@dataclass(frozen=True)
class Rejection:
    """A task's verdict that a row cannot go on."""

    kind: records.RejectKind
    reason: str
    detail: str

    def status(self) -> dict[str, str]:
        """As it is kept in the unit's file."""
        return {"kind": str(self.kind), "reason": self.reason, "detail": self.detail}


class Task(Protocol):
    """What a pass does with each row. Pickled to the workers, so it holds plain values."""

    @property
    def sampling(self) -> Sampling:
        """How its completions are drawn."""
        ...

    @property
    def json_schema(self) -> dict[str, Any] | None:
        """What its completions must conform to, if anything."""
        ...

    @property
    def adds(self) -> pa.Schema:
        """Columns added (or replaced) by `collect`."""
        ...

    def requests(self, row: dict[str, Any]) -> list[Request] | Rejection | None:
        """Completions to draw for a row; None lets it pass with `adds` from `collect(row, [])`."""
        ...

    def collect(
        self, row: dict[str, Any], completions: list[Completion]
    ) -> dict[str, Any] | Rejection:
        """Values of the added columns, from all the row's completions."""
        ...


@dataclass
class PassReport:
    """Numbers of a pass; tokens and seconds are of this run, rows of the whole pass.

    `engine_seconds` runs from the first unit's hand-over to the engines to the last one's return;
    `seconds` also has what Ray Data takes to start its workers; `start_seconds`, before them, is
    what the engines took to be ready (next to nothing where they ran already). `spent` is what an
    endpoint told.
    """

    rows: int = 0
    rows_resumed: int = 0  # found done at the start
    tokens: int = 0
    prompt_tokens: int = 0
    seconds: float = 0.0
    engine_seconds: float = 0.0
    start_seconds: float = 0.0
    rejects: Counter[str] = field(default_factory=Counter)
    spent: dict[str, float] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """For MLflow and the manifest."""
        seconds, engine = max(self.seconds, 1e-9), max(self.engine_seconds, 1e-9)
        fresh = self.rows - self.rows_resumed
        return {
            "rows_resumed": self.rows_resumed,
            "generated_tokens": self.tokens,
            "prompt_tokens": self.prompt_tokens,
            "engine_start_seconds": round(self.start_seconds, 3),
            "generation_seconds": round(self.seconds, 3),
            "rows_per_second": round(fresh / seconds, 3),
            "tokens_per_second": round(self.tokens / engine, 1),
            **self.spent,
        }


def generate(
    rows: str,
    work: str,
    task: Task,
    pool: EnginePool,
    *,
    identity: str,
    name: str = "generate",
    unit_rows: int = 64,
    in_driver: bool = False,
) -> PassReport:
    """Run a task over a folder of rows, leaving one file a unit in `work`; resumes by itself.

    Args:
        rows: folder of Parquet rows.
        work: folder for the units' files; what an earlier, killed call left there is kept.
        identity: fingerprint of everything that the outputs depend on (the stage's).
        unit_rows: rows in a unit, which is also what a kill can cost per unit in flight.
        in_driver: threads of this process ask the engines, without Ray Data, whose workers' start
            takes longer than a small pass.

    Raises:
        EngineDead: an engine died more often than it may be restarted.
        EngineHung: an engine gave no answer in time.
    """
    units = cutting.plan(rows, unit_rows)
    todo = cutting.pending(units, work, {"identity": identity, "unit_rows": unit_rows})
    total = sum(unit.count for unit in units)
    report = PassReport(rows=total, rows_resumed=total - sum(unit.count for unit in todo))
    if report.rows_resumed:
        log.info("%s: %d of %d rows are done already", name, report.rows_resumed, total)
    if not todo:
        return report
    begun = told = time.monotonic()
    done, first, last = report.rows_resumed, float("inf"), 0.0
    for line in (_by_threads if in_driver else _numbers)(todo, work, task, pool):
        done += line["rows"]
        report.tokens += line["tokens"]
        report.prompt_tokens += line["prompt_tokens"]
        report.rejects["rows"] += line["rejects"]
        report.seconds = time.monotonic() - begun
        first, last = min(first, line["began_ms"] / 1e3), max(last, line["ended_ms"] / 1e3)
        report.engine_seconds = last - first
        if time.monotonic() - told > _REPORT_S or done == total:
            told = time.monotonic()
            log.info("%s", _progress(name, done, report))
    missing = cutting.pending(units, work, {"identity": identity, "unit_rows": unit_rows})
    assert not missing, f"{len(missing)} units were not written: {missing[:3]}"
    return report


def generate_here(
    rows: str, work: str, task: Task, source: Any, *, identity: str, name: str, unit_rows: int
) -> PassReport:
    """`generate` without Ray, one unit after another: for a source that is no engine.

    Args:
        source: has `client()`, whose `generate` is that of `rayonale.generate.client.Client`.
    """
    units = cutting.plan(rows, unit_rows)
    todo = cutting.pending(units, work, {"identity": identity, "unit_rows": unit_rows})
    total = sum(unit.count for unit in units)
    report = PassReport(rows=total, rows_resumed=total - sum(unit.count for unit in todo))
    worker = _UnitWorker(work, task, source)
    begun = told = time.monotonic()
    done = report.rows_resumed
    for unit in todo:
        line = worker._unit(unit)
        done += line["rows"]
        report.tokens += line["tokens"]
        report.prompt_tokens += line["prompt_tokens"]
        report.rejects["rows"] += line["rejects"]
        report.seconds = report.engine_seconds = time.monotonic() - begun
        if time.monotonic() - told > _REPORT_S or done == total:
            told = time.monotonic()
            log.info("%s", _progress(name, done, report))
    return report


def _progress(name: str, done: int, report: PassReport) -> str:
    rate = (done - report.rows_resumed) / max(report.seconds, 1e-9)
    left = (report.rows - done) / max(rate, 1e-9)
    return (
        f"{name}: {done}/{report.rows} rows, {rate:.1f} rows/s, "
        f"{report.tokens / max(report.seconds, 1e-9):.0f} tokens/s, "
        f"{report.rejects['rows']} rejects, {left:.0f} s left"
    )


def _numbers(todo: list[Unit], work: str, task: Task, pool: EnginePool) -> Iterator[dict[str, int]]:
    """Run the units over Ray Data; yields each unit's counts as it is written."""
    quiet()
    in_flight = _units_in_flight(todo, pool)
    # The units themselves are the items: no read tasks, and a block is a handful of numbers.
    items = [asdict(unit) for unit in todo]
    dataset = ray.data.from_items(items, override_num_blocks=min(len(todo), 1_000)).map_batches(
        _UnitWorker,
        fn_constructor_args=(work, task, pool),
        batch_size=1,
        num_cpus=0,
        compute=ray.data.ActorPoolStrategy(
            size=1,
            max_tasks_in_flight_per_actor=2 * in_flight,
            max_concurrent_calls_per_actor=in_flight,
            enable_true_multi_threading=True,
        ),
    )
    for line in dataset.iter_rows():
        yield {key: int(value) for key, value in line.items()}


def _by_threads(
    todo: list[Unit], work: str, task: Task, pool: EnginePool
) -> Iterator[dict[str, int]]:
    """Run the units on threads of this process; yields each unit's counts as it is written."""
    worker = _UnitWorker(work, task, pool)
    with ThreadPoolExecutor(_units_in_flight(todo, pool)) as threads:
        try:
            for line in as_completed([threads.submit(worker._unit, unit) for unit in todo]):
                yield line.result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def quiet() -> None:
    """Have Ray Data print nothing of its own: a pass tells its progress itself."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for logger in ("ray.data", "ray.data._internal.progress"):
        logging.getLogger(logger).setLevel(logging.ERROR)


def _units_in_flight(todo: list[Unit], pool: EnginePool) -> int:
    """Enough units to fill every replica's batch, and some that wait behind them."""
    per_unit = max(unit.count for unit in todo)
    fill = -(-pool.options.max_num_seqs // per_unit)
    return min(60, (fill + _IN_FLIGHT) * pool.options.replicas)


class _UnitWorker:
    """Ray Data actor: reads a unit, asks the engines, writes the unit's file."""

    def __init__(self, work: str, task: Task, pool: EnginePool) -> None:
        self._work, self._task = work, task
        self._client = pool.client()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        columns = [batch[f.name].tolist() for f in fields(Unit)]
        units = [Unit(*values) for values in zip(*columns, strict=True)]
        lines = [self._unit(unit) for unit in units]
        return {key: [line[key] for line in lines] for key in lines[0]}

    def _unit(self, unit: Unit) -> dict[str, int]:
        rows = cutting.read(unit)
        asked = [self._task.requests(row) for row in rows]
        wanted = [each for each in asked if isinstance(each, list)]
        began = time.time()
        found = iter(
            self._client.generate(wanted, self._task.sampling, self._task.json_schema)
            if wanted
            else []
        )
        results: list[dict[str, Any] | Rejection] = []
        counts = {"rows": len(rows), "tokens": 0, "prompt_tokens": 0, "rejects": 0}
        counts |= {"began_ms": int(began * 1e3), "ended_ms": int(time.time() * 1e3)}
        for row, each in zip(rows, asked, strict=True):
            if isinstance(each, Rejection):
                results.append(each)
                continue
            completions = next(found) if each is not None else []
            counts["tokens"] += sum(c.tokens for c in completions)
            counts["prompt_tokens"] += sum(c.prompt_tokens for c in completions)
            results.append(failed(completions) or self._task.collect(row, completions))
        counts["rejects"] = sum(isinstance(result, Rejection) for result in results)
        self._write(unit, rows, results)
        return counts

    def _write(
        self, unit: Unit, rows: list[dict[str, Any]], results: list[dict[str, Any] | Rejection]
    ) -> None:
        written = []
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, Rejection):
                written.append({**row, STATUS_COLUMN: result.status()})
            else:
                written.append({**row, **result, STATUS_COLUMN: None})
        schema = added(cutting.schema_of(unit.file), self._task.adds)
        schema = schema.append(pa.field(STATUS_COLUMN, STATUS))
        table = pa.Table.from_pylist(written, schema=schema)
        storage.write_table(storage.join(self._work, unit.name), table)


_KINDS = {"over_long": records.RejectKind.LIMIT}


def failed(completions: list[Completion]) -> Rejection | None:
    """The rejection of a row of which a completion could not be drawn, or None."""
    for completion in completions:
        if completion.error:
            kind = _KINDS.get(completion.error, records.RejectKind.INVALID)
            return Rejection(kind, completion.error, completion.detail)
    return None


def added(schema: pa.Schema, adds: pa.Schema) -> pa.Schema:
    """A schema with columns appended, or replaced where the name is there already."""
    for column in adds:
        at = schema.get_field_index(column.name)
        schema = schema.set(at, column) if at >= 0 else schema.append(column)
    return schema.remove_metadata()
