"""Reference log-probabilities as columns, computed once, ahead of training.

    rows/ ─ chunks ─► actors: tokenise → pack → the trainer's own forward ─► work/ ─► rows/

Pairs, labelled rows and lists alike. A labelled row also gets another row's response
(`mismatched`, see `mismatched.py`) and its log-probability, which KTO estimates its KL term with.

The forward, the batching and the tokens are the trainer's, so that with policy = reference the
first DPO loss is ln 2; vLLM's log-probabilities differ by up to 0.04 nats a sequence in bfloat16.
Each chunk is one file written in one piece: a killed run goes on with the chunks that are missing.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from rayonale import cluster, models, storage
from rayonale.enrich import estimates
from rayonale.enrich.mismatched import MISMATCHED, with_mismatched
from rayonale.records import MESSAGES, REJECT
from rayonale.stages import Reads, Settings, Stage, StageContext, StageResult
from rayonale.train import references
from rayonale.train.examples import LIST_VALUES, REFERENCE, Encoding, encode
from rayonale.train.launch import PATIENT_THREADS
from rayonale.train.shards import Chunk, chunks_of
from rayonale.train.trees import (
    LISTS,
    REFERENCED,
    reference_column,
    row_type_of,
    tree_length,
    trees_of,
)

log = logging.getLogger("rayonale")

LOG_EVERY = 10.0  # seconds


class ReferenceSettings(Settings):
    """Settings of the `reference_logprobs` stage.

    Attributes:
        model: the reference, when no stage is read in the role `model`.
        chat_template: replaces the tokenizer's own; the same as in training.
        dtype: the same as in training.
        workers: actors, each with a copy of the model.
        cpus_per_worker: cores that one reserves, and threads that it uses without a GPU.
        use_gpu: None takes GPUs when the cluster has any.
        micro_batch_tokens: computed at once; by default as many as in training.
        rows_per_chunk: rows of one output file; what a killed run does again at most.
        max_length, max_prompt_length: tokens; rows over them are left out and counted.
    """

    model: str = "tinyworld"
    chat_template: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    workers: int = Field(default=1, gt=0)
    cpus_per_worker: int = Field(default=1, gt=0)
    use_gpu: bool | None = None
    micro_batch_tokens: int | None = Field(default=None, gt=0)
    rows_per_chunk: int = Field(default=1_000, gt=0)
    max_length: int = Field(default=2_048, gt=1)
    max_prompt_length: int | None = Field(default=None, gt=0)


@dataclass(frozen=True)
class Job:
    """What every actor needs to know."""

    encoding: Encoding
    shared_fingerprint: str
    dtype: str
    threads: int
    use_gpu: bool
    micro_batch_tokens: int | None
    out: str


class Scorer:
    """A model on one worker that scores chunks; run as a Ray actor."""

    def __init__(self, job: Job) -> None:
        import torch

        from rayonale.train import attention
        from rayonale.train.policy import Policy, load_model

        if not job.use_gpu:
            torch.set_num_threads(job.threads)
        self.job = job
        self.device = torch.device("cuda" if job.use_gpu else "cpu")
        self.tokenizer = job.encoding.tokenizer()
        kernel = attention.choose("auto", self.device.type)
        self.one_row = kernel in attention.ONE_ROW
        model = load_model(job.encoding.model, job.dtype, job.encoding.max_length, kernel)
        self.policy = Policy(model).to(self.device).eval()

    def run(self, chunk: Chunk) -> dict[str, Any]:
        """Score one chunk and write its rows and rejects; nothing is done twice.

        Returns:
            Its rows, tokens of the responses, tokens that were computed (prompts, too), seconds.
        """
        began = time.monotonic()
        table = chunk.read()
        scored, rejects, tokens, computed = [], [], 0, 0
        examples, places = [], []
        rows = table.to_pylist()
        if MISMATCHED in self.job.encoding.sequences:
            rows = with_mismatched(rows)
        for place, row in enumerate(rows):
            example, left_out = encode(self.tokenizer, row, self.job.encoding)
            if example is None:
                rejects.append(left_out)
            else:
                examples.append(example)
                places.append(place)
        for row, example, found in zip(places, examples, self.logprobs(examples), strict=True):
            fingerprint = references.row_fingerprint(self.job.shared_fingerprint, example["tokens"])
            scored.append({**rows[row], **found, REFERENCE: fingerprint})
            tokens += sum(int(np.sum(example[f"{n}_tokens"])) for n in self.job.encoding.sequences)
            computed += cost_of(example, self.job.encoding.sequences)
        name = f"part-{chunk.number:05d}.parquet"
        schema = output_schema(table.schema, self.job.encoding.sequences)
        rejected = pa.Table.from_pylist(rejects, schema=REJECT)
        storage.write_table(storage.join(self.job.out, storage.REJECTS, name), rejected)
        rows_table = pa.Table.from_pylist(scored, schema=schema)
        storage.write_table(storage.join(self.job.out, storage.ROWS, name), rows_table)
        seconds = time.monotonic() - began
        return {"rows": len(rows), "tokens": tokens, "computed": computed, "seconds": seconds}

    def logprobs(self, examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Sums over each response by column (of lists one each), in the order of the examples."""
        import torch

        from rayonale.train.batches import ALIGN, collate
        from rayonale.train.plan import micro_batches
        from rayonale.train.scoring import DEFAULT_MICRO_BATCH_TOKENS

        found: list[dict[str, Any]] = [{} for _ in examples]
        if not examples:
            return found
        sequences = self.job.encoding.sequences
        costs = [cost_of(example, sequences) for example in examples]
        most = self.job.micro_batch_tokens or DEFAULT_MICRO_BATCH_TOKENS[self.device.type]
        (mine,) = micro_batches(range(len(examples)), costs, world=1, max_tokens=most)
        with torch.no_grad():
            for micro in mine:
                batch = collate(
                    [examples[row] for row in micro.rows],
                    sequences,
                    align=ALIGN[self.job.dtype],
                    one_row=self.one_row,
                )
                logprob = self.policy(**batch.inputs(self.device)).cpu()
                for name in sequences:
                    for row, index in zip(micro.rows, batch.sequence[name], strict=True):
                        found[row][reference_column(name)] = (
                            logprob[index[index >= 0]].tolist()
                            if name in LISTS
                            else logprob[index].item()
                        )
        return found


def cost_of(example: dict[str, Any], sequences: tuple[str, ...]) -> int:
    """Tokens that a row puts into the model."""
    cost = 0
    for prompt, names in trees_of(sequences).items():
        lengths = np.concatenate([np.atleast_1d(example[f"{name}_tokens"]) for name in names])
        cost += tree_length(example[f"{prompt}_tokens"], lengths.tolist())
    return cost


def output_schema(schema: pa.Schema, sequences: tuple[str, ...]) -> pa.Schema:
    """Columns of the rows with the reference's; older ones of the same names are replaced."""
    columns = [reference_column(name) for name in sequences]
    number = pa.float32()
    added = {name: pa.list_(number) if name in LIST_VALUES else number for name in columns}
    added[REFERENCE] = pa.string()
    if MISMATCHED in sequences:
        added[MISMATCHED] = MESSAGES
    kept = [field for field in schema if field.name not in added]
    return pa.schema([*kept, *added.items()])


def run(context: StageContext, settings: ReferenceSettings) -> StageResult:
    """Score all rows; rows that are too long go to the rejects."""
    read = context.inputs.get("model")
    model = models.resolve(read.model if read is not None else settings.model)
    columns = storage.schema(context.rows()).names
    job = job_of(settings, model, columns, storage.join(context.out, storage.WORK))
    chunks = chunks_of(context.rows(), settings.rows_per_chunk)
    todo = [chunk for chunk in chunks if not _done(context.out, chunk)]
    started = time.monotonic()
    sums = _score(context.name, job, todo, settings) if todo else {}
    seconds = time.monotonic() - started
    for kind in (storage.REJECTS, storage.ROWS):
        _publish(context.out, kind)
    return _result(context.out, sum(c.rows for c in chunks), sums, seconds)


def job_of(settings: ReferenceSettings, model: str, columns: list[str], out: str) -> Job:
    """What every actor needs, for rows with these columns."""
    import ray

    use_gpu = settings.use_gpu
    if use_gpu is None:
        use_gpu = ray.cluster_resources().get("GPU", 0) > 0
    return Job(
        encoding=Encoding(
            model=model,
            sequences=REFERENCED[row_type_of(columns)],
            chat_template=settings.chat_template,
            max_length=settings.max_length,
            max_prompt_length=settings.max_prompt_length,
            fingerprint=True,
        ),
        shared_fingerprint=references.forward_fingerprint(model, settings.dtype),
        dtype=settings.dtype,
        threads=settings.cpus_per_worker,
        use_gpu=use_gpu,
        micro_batch_tokens=settings.micro_batch_tokens,
        out=out,
    )


def actor_of(job: Job, settings: ReferenceSettings) -> Any:
    """Start a scorer; it is ready when its first chunk is done."""
    import ray

    actor = ray.remote(Scorer).options(
        num_cpus=settings.cpus_per_worker,
        num_gpus=1 if job.use_gpu else 0,
        max_restarts=3,
        max_task_retries=3,
        runtime_env={"env_vars": dict(PATIENT_THREADS)},
    )
    return actor.remote(job)


def _done(out: str, chunk: Chunk) -> bool:
    name = f"{storage.ROWS}/part-{chunk.number:05d}.parquet"
    places = (storage.join(out, storage.WORK, name), storage.join(out, name))
    return any(storage.exists(place) for place in places)


def _score(name: str, job: Job, todo: list[Chunk], settings: ReferenceSettings) -> dict[str, float]:
    """Spread chunks over actors; an actor that dies is started again and its chunk redone.

    Returns:
        Sums of what `Scorer.run` gives, its seconds shared among the actors: what the whole took
        longer is their start.
    """
    import ray
    from ray.util import ActorPool

    resources = {"CPU": settings.cpus_per_worker} | ({"GPU": 1} if job.use_gpu else {})
    count = min(settings.workers, len(todo))
    cluster.require(f"{name}: scorers", count, resources)  # work given to one that waits, waits too
    actors = [actor_of(job, settings) for _ in range(count)]
    pool = ActorPool(actors)
    total, done = sum(chunk.rows for chunk in todo), 0
    sums = dict.fromkeys(("tokens", "computed", "seconds"), 0.0)
    started = told = time.monotonic()
    for found in pool.map_unordered(lambda a, chunk: a.run.remote(chunk), todo):
        done += found["rows"]
        for each in sums:
            sums[each] += found[each] / (count if each == "seconds" else 1)
        seconds = time.monotonic() - started
        if time.monotonic() - told > LOG_EVERY or done == total:
            told = time.monotonic()
            log.info(
                "%s: %d/%d rows, %.1f rows/s, %.0f tokens/s, %.0f s left",
                name,
                done,
                total,
                done / seconds,
                sums["tokens"] / seconds,
                (total - done) * seconds / done,
            )
    for one in actors:
        ray.kill(one)
    return sums


def _publish(out: str, kind: str) -> None:
    """Move finished files to their place; a run killed here goes on here."""
    for uri in storage.parquet_files(storage.join(out, storage.WORK, kind)):
        fs, path = storage.filesystem(uri)
        target = storage.filesystem(storage.join(out, kind, uri.rsplit("/", 1)[-1]))[1]
        fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        fs.mv(path, target)


def _result(out: str, rows_in: int, sums: dict[str, float], seconds: float) -> StageResult:
    counted: dict[str, dict[str, int]] = {}
    for reject in storage.read_rows(storage.join(out, storage.REJECTS), ["kind", "reason"]):
        kind = counted.setdefault(reject["kind"], {})
        kind[reject["reason"]] = kind.get(reject["reason"], 0) + 1
    rows_out = storage.count(storage.join(out, storage.ROWS))
    metrics = {"seconds": seconds}
    if seconds and sums:
        metrics |= {
            "rows_per_second": rows_out / seconds,
            "tokens_per_second": sums["tokens"] / seconds,
            "computed_tokens": sums["computed"],
            "start_seconds": max(0.0, seconds - sums["seconds"]),
        }
    return StageResult(rows_in=rows_in, rows_out=rows_out, rejects=counted, metrics=metrics)


STAGE = Stage(
    kind="reference_logprobs",
    settings=ReferenceSettings,
    run=run,
    reads={
        "rows": Reads("rows", columns=("id", "prompt")),
        "model": Reads("model", optional=True),
    },
    adds=(*(reference_column(n) for ns in REFERENCED.values() for n in ns), MISMATCHED, REFERENCE),
    own_devices=True,
    estimate=estimates.reference,
)
