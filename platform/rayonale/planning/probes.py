"""Short measured runs of the real parts: engines, training workers, scorers, the session itself.

    sample rows ─ the stage's own task ─► engine     start, tokens/s, lengths, rows that go on
                ─ tokenise ─► Ray Train ─ a few steps start and export, tokens/s
                ─ the reference's scorer              start, tokens/s

Each takes from seconds to a minute; what it says is kept (`rates.py`), so it is made once on a
kind of machine. Everything else should rest meanwhile, or the numbers are of a busy machine.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa

from rayonale import cluster, models, storage
from rayonale.generate.engine_arguments import architecture
from rayonale.generate.settings import EngineOptions
from rayonale.generate.stream import Rejection, Task
from rayonale.planning.flow import Row
from rayonale.planning.rates import Values

log = logging.getLogger("rayonale")

TRAIN_STEPS = 4  # of which the first, in which memory is laid out, does not count
_MICRO_BATCHES = 4  # of a worker in each of them
_SCORED_ROWS = 256

Change = Callable[[Row], Row | Rejection]


class Probes:
    """Makes probes; starts Ray when first asked. Use as a context manager.

    Args:
        engines: `rayonale.generate.pool.Engines` that run already; None starts its own.
    """

    def __init__(self, num_cpus: int | None = None, engines: Any = None) -> None:
        self._num_cpus = num_cpus
        self._stack = ExitStack()
        self._engines = engines
        self._connected = False
        self._starts: dict[tuple[str, EngineOptions], float] = {}
        self.folder = ""

    def __enter__(self) -> Probes:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def connect(self) -> None:
        """A Ray session, and a folder for what probes write."""
        if self._connected:
            return
        from rayonale.generate.pool import Engines

        self._connected = True
        self.folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="rayonale-"))
        cluster.connect(self._num_cpus)
        if self._engines is None:
            self._engines = self._stack.enter_context(Engines())

    def session(self) -> tuple[Values, list[Row]]:
        """What lies around the stages: Ray's start, MLflow's, and MLflow's share of a stage."""
        from rayonale.lineage import tracking

        started = time.monotonic()
        self.connect()
        ray_seconds = time.monotonic() - started
        started = time.monotonic()
        with tracking.Tracker("probe", storage.join(self.folder, "mlflow")) as tracker:
            opened = time.monotonic()
            with tracker.stage_run(
                name="probe", kind="probe", settings={}, inputs={}, fingerprint="probe",
                code_version="probe", out=self.folder,
            ) as run:  # fmt: skip
                run.finish({"rows_in": 0, "rows_out": 0, "seconds": 0.0, "rejects": {},
                            "metrics": {}, "settings": {}})  # fmt: skip
            closed = time.monotonic()
        return {
            "ray_seconds": ray_seconds,
            "mlflow_seconds": opened - started,
            "stage_seconds": closed - opened,
        }, []

    def engine(self, model: str, options: EngineOptions) -> tuple[Values, list[Row]]:
        """Start an engine; it stays for the passes to come."""
        self._pool(model, options)
        return {"start_seconds": self._starts[architecture(models.resolve(model)), options]}, []

    def _pool(self, model: str, options: EngineOptions) -> Any:
        """A running pool; how long the first of its kind took to start is kept."""
        self.connect()
        key = (architecture(models.resolve(model)), options)
        started = time.monotonic()
        pool = self._engines.get(model, options)
        self._starts.setdefault(key, time.monotonic() - started)
        return pool

    def generation(
        self,
        model: str,
        options: EngineOptions,
        task: Task,
        rows: list[Row],
        *,
        change: Change | None = None,
        without: tuple[str, ...] = (),
    ) -> tuple[Values, list[Row]]:
        """Run a stage's own pass over some rows.

        Args:
            change: what the stage does to each row at the pass's end (it may reject it).
            without: columns that `change` takes away.

        Returns:
            The numbers (`tokens_per_second` of all replicas), and the rows that went on.
        """
        from rayonale.generate import finish, stream

        self.connect()
        place = tempfile.mkdtemp(dir=self.folder)
        source, work = storage.join(place, "source"), storage.join(place, "work")
        storage.write_table(storage.join(source, "part-0.parquet"), pa.Table.from_pylist(rows))
        pool = self._pool(model, options)
        requests = sum(len(found) for row in rows if isinstance(found := task.requests(row), list))
        log.info("probe: %d rows, %d completions", len(rows), requests)
        report = stream.generate(source, work, task, pool, identity="probe", name="probe")
        started = time.monotonic()
        finish.split(work, storage.join(place, "out"), change, without)
        split_seconds = time.monotonic() - started
        kept = list(storage.read_rows(storage.join(place, "out", storage.ROWS)))
        metrics = report.metrics()
        return {
            "tokens_per_second": metrics["tokens_per_second"],
            "pass_seconds": max(0.0, report.seconds - report.engine_seconds),
            "row_seconds": split_seconds / len(rows),
            "completion_tokens": report.tokens / max(1, requests),
            "prompt_tokens": report.prompt_tokens / max(1, requests),
            "keep": len(kept) / len(rows),
        }, kept

    def training(
        self, settings: Any, model: str, rationale: Any, rows: list[Row], tokens_per_row: float
    ) -> tuple[Values, list[Row]]:
        """Train a few short steps on Ray Train, from the start of its workers to the export.

        Args:
            settings: `TrainSettings`; the model, dtype, loss, workers and kernels count.
            rationale: `RationalePrompt` of its rationales.
            rows: with all that the loss reads; numbers may be stand-ins.
            tokens_per_row: what a row puts into the model.
        """
        import ray

        from rayonale.train import launch, shards
        from rayonale.train.scoring import DEFAULT_MICRO_BATCH_TOKENS
        from rayonale.train.stage import encoding_of

        self.connect()
        place = tempfile.mkdtemp(dir=self.folder)
        source = storage.join(place, "source")
        storage.write_table(storage.join(source, "part-0.parquet"), pa.Table.from_pylist(rows))
        start = models.resolve(model)
        encoding = encoding_of(settings, start, rationale)
        encoding.tokenizer()  # imports: once in a run, whatever its length
        started = time.monotonic()
        encoding.tokenizer()
        loaded = time.monotonic() - started
        started = time.monotonic()
        tokens = shards.tokenise(source, "train", None, encoding, storage.join(place, "tokens"))
        tokenised = max(0.0, time.monotonic() - started - loaded)
        use_gpu = settings.use_gpu
        if use_gpu is None:
            use_gpu = ray.cluster_resources().get("GPU", 0) > 0
        micro = (
            settings.micro_batch_tokens or DEFAULT_MICRO_BATCH_TOKENS["cuda" if use_gpu else "cpu"]
        )
        batch = round(_MICRO_BATCHES * micro * settings.workers / max(tokens_per_row, 1.0))
        probe = settings.model_copy(
            update={
                "epochs": None, "max_steps": TRAIN_STEPS, "warmup_steps": None, "select": "last",
                "batch_pairs": min(max(1, batch), settings.batch_pairs), "max_failures": 0,
                "checkpoint_every": None, "limit": None,
            }
        )  # fmt: skip
        log.info("probe: %d training steps of loss %s", TRAIN_STEPS, settings.loss.name)
        started = time.monotonic()
        result = launch.run(
            launch.Job(
                settings=probe.model_dump_json(), start=start, shards=tokens, validation=[], seed=0,
                use_gpu=use_gpu, work=storage.join(place, "work"),
                model=storage.join(place, "model"), facts={},
            ),
            lambda entry: None,
        )  # fmt: skip
        wall = time.monotonic() - started
        steps = result["history"]
        counted = steps[1:]
        seconds = sum(entry["seconds"] for entry in counted)
        # The first step's excess is part of the start.
        running = seconds * len(steps) / len(counted)
        return {
            "tokens_per_second": sum(entry["tokens"] for entry in counted) / seconds,
            # The tokenizer is loaded for the training rows and for the validation rows.
            "start_seconds": max(0.0, wall - running) + 2 * loaded,
            "row_seconds": tokenised / len(rows),
        }, []

    def rewards(
        self, model: str, options: EngineOptions, backend: str, rows: list[Row]
    ) -> tuple[Values, list[Row]]:
        """Give rewards to some responses; a model without a head gets one of zeros.

        Args:
            backend: as in the `score` stage.
            rows: with `prompt` and `response` (a text).
        """
        from rayonale.enrich.reward_task import RewardTask
        from rayonale.generate import stream

        self.connect()
        place = tempfile.mkdtemp(dir=self.folder)
        source = _with_head(models.resolve(model), storage.join(place, "classifier"))
        started = time.monotonic()
        if backend == "transformers":
            pool = self._engines.get(source, options, "transformers")
        else:
            pool = self._engines.rewards(source, options, fall_back=backend == "auto")
        start = time.monotonic() - started
        folder = storage.join(place, "rows")
        storage.write_table(storage.join(folder, "part-0.parquet"), pa.Table.from_pylist(rows))
        log.info("probe: rewards of %d responses", len(rows))
        task = RewardTask({"response": "one"}, "reward", 1, "probe")
        report = stream.generate(
            folder, storage.join(place, "work"), task, pool, identity="probe", name="probe"
        )
        return {
            "tokens_per_second": report.prompt_tokens / max(report.engine_seconds, 1e-9),
            "start_seconds": start,
            "pass_seconds": max(0.0, report.seconds - report.engine_seconds),
        }, []

    def forward(self, settings: Any, model: str, rows: list[Row]) -> tuple[Values, list[Row]]:
        """Score some rows with one of the scorers of `reference_logprobs`.

        Args:
            settings: `ReferenceSettings`.
        """
        import ray

        from rayonale.enrich import reference
        from rayonale.train.shards import chunks_of

        self.connect()
        place = tempfile.mkdtemp(dir=self.folder)
        source = storage.join(place, "source")
        rows = rows[:_SCORED_ROWS]
        head = max(1, len(rows) // 4)
        for number, part in enumerate((rows[:head], rows[head:] or rows)):
            file = storage.join(source, f"part-{number}.parquet")
            storage.write_table(file, pa.Table.from_pylist(part))
        job = reference.job_of(
            settings, models.resolve(model), list(rows[0]), storage.join(place, "out")
        )
        log.info("probe: log-probabilities of %d rows", len(rows))
        started = time.monotonic()
        actor = reference.actor_of(job, settings)
        warm, measured = (chunk for chunk in chunks_of(source))
        ray.get(actor.run.remote(warm))
        begun = time.monotonic()
        found = ray.get(actor.run.remote(measured))
        seconds = time.monotonic() - begun
        ray.kill(actor)
        rate = found["computed"] / seconds
        return {
            "tokens_per_second": rate,
            "start_seconds": max(0.0, begun - started - seconds * warm.rows / measured.rows),
        }, []


def _with_head(model: str, folder: str) -> str:
    """A model that gives rewards: itself, or with a head of zeros written to a folder."""
    import torch
    from transformers import AutoConfig

    from rayonale.generate.rewards import source_of
    from rayonale.train import classifier

    try:
        return source_of(model)[0]
    except ValueError:
        width = AutoConfig.from_pretrained(model).get_text_config().hidden_size
        classifier.write(Path(model), torch.zeros(1, width), Path(folder))
        return folder


def stand_ins(rows: list[Row], columns: list[str], **values: Any) -> list[Row]:
    """Rows with all columns, those that are missing or empty filled with stand-ins."""
    filled = {name: values.get(name, 0.0) for name in columns}
    return [filled | {name: v for name, v in row.items() if v is not None} for row in rows]
