"""Stage `ingest`: raw preference data → checked rows with stable ids and splits, as Parquet.

    sources ─ survey ─► blocks ─ convert (in parallel) ─► work/ ─ assemble (in order) ─► rows/
                                       └── rejects ────────────────────────────────────► rejects/

Runs in this process when there is little to read, else as Ray tasks, a block each. A killed job
goes on with the blocks that are not done.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import ray

from rayonale import cluster, models, storage
from rayonale.data import assemble, blocks, estimates, formats, output, reading, sources
from rayonale.data.fields import renamed
from rayonale.data.settings import IngestSettings, Source
from rayonale.records import ROW_TYPES
from rayonale.stages import Reads, Stage, StageContext, StageOutput, StageResult

log = logging.getLogger("rayonale")

_PARALLEL_BYTES = 64 << 20  # from here on Ray tasks pay
_LOG_SECONDS = 5


def run(context: StageContext, settings: IngestSettings) -> StageResult:
    """Read, convert, check, identify, split and mix.

    Raises:
        ValueError: nothing to read, an unknown or ambiguous format, sources of different row
            types, more invalid records than allowed (the message has the three commonest
            reasons; all rejects are in `rejects/`), leaking splits, or no row left.
    """
    read = _sources_of(context, settings)
    work = storage.join(context.out, storage.WORK)
    planned, raw_inputs, row_type = _plan(read, settings, work)
    started = time.monotonic()
    reports = list(_convert(planned))
    converted = blocks.Converted(planned, reports, row_type)
    records = sum(report.records for report in reports)
    if records == 0:
        raise ValueError(f"stages.{context.name}: the sources hold no records")
    weights = [source.weight for source in read if source.weight is not None]
    rejects = _counts(reports)
    problem = _check_invalid(reports, rejects, settings.max_invalid_share)
    decision = None
    if problem is None:
        decision = assemble.decide(converted, weights or None, settings.seed)
        for verdict, (kind, reason, _) in assemble.VERDICTS.items():
            if found := int((decision.verdict == verdict).sum()):
                rejects.setdefault(kind, {})[reason] = found
        problem = _check_invalid(reports, rejects, settings.max_invalid_share)
    written = output.write_rejects(converted, decision, context.out)
    if problem is not None or decision is None:
        raise ValueError(f"{problem}\nAll rejects: {context.out}/{storage.REJECTS}")
    rows = output.write_rows(converted, decision, context.out)
    assert records == rows + written, f"{records} records, {rows} rows, {written} rejects"
    if rows == 0:
        raise ValueError(f"no row left of {records} records; rejects are in {context.out}/rejects")
    seconds = time.monotonic() - started
    repeated = int(((decision.occurrence > 0) & (decision.verdict == assemble.KEPT)).sum())
    by_split: Counter[str] = Counter()
    for share in decision.shares:
        by_split.update(share)
    return StageResult(
        rows_in=records,
        rows_out=rows,
        rejects=rejects,
        metrics={
            "rows_per_second": records / max(seconds, 1e-9),
            "repeated_rows": float(repeated),
            **{f"rows_{name}": float(count) for name, count in by_split.items()},
        },
        details={
            "row_type": row_type,
            "sources": [
                {"uri": source.uri, "format": fmt, "weight": source.weight, **share}
                for source, fmt, share in zip(read, _formats(planned), decision.shares, strict=True)
            ],
        },
        raw_inputs=raw_inputs,
    )


def _sources_of(context: StageContext, settings: IngestSettings) -> list[Source]:
    read = list(settings.sources)
    raw: StageOutput | None = context.inputs.get("raw")
    if raw is not None:
        folder = raw.uri if raw.kind == "external" else storage.join(raw.uri, "raw")
        read.insert(0, Source(uri=folder, format="auto"))
    if not read:
        raise ValueError(
            f"stages.{context.name}: nothing to read; expected `sources`, or a stage in `reads.raw`"
        )
    if raw is not None and any(source.weight is not None for source in read):
        raise ValueError(
            f"stages.{context.name}: weights need all inputs in `sources`; found `reads.raw` too"
        )
    return read


def _plan(
    read: list[Source], settings: IngestSettings, work: str
) -> tuple[list[blocks.Block], list[dict[str, Any]], str]:
    """Blocks of all sources, raw_inputs, and the row type."""
    planned: list[blocks.Block] = []
    raw_inputs: list[dict[str, Any]] = []
    row_types: dict[str, str] = {}
    tokenizer = None
    if settings.model is not None:
        tokenizer = (models.resolve(settings.model), settings.chat_template)
    for number, source in enumerate(read):
        files = sources.find(source.uri)
        if over := sources.passed_over(source.uri):
            log.warning(
                "%s: %d file(s) left out, whose names do not end in %s: %s",
                source.uri,
                len(over),
                sources.SUFFIXES,
                ", ".join(over[:5]) + (" …" if len(over) > 5 else ""),
            )
        layout = _layout(source, files, settings)
        row_types[source.uri] = layout.row_type
        parts = []
        for file in files:
            pieces, entry = sources.survey(file)
            parts += pieces
            raw_inputs.append(entry)
        conversion = blocks.Conversion(
            number=number,
            format=layout.name,
            fields=source.fields,
            hub=source.hub,
            id_field=source.id_field,
            annotator_field=source.annotator_field,
            split=source.split,
            splits=settings.splits,
            limits=settings.limits,
            drop_equal_scores=settings.drop_equal_scores,
            max_line_bytes=settings.max_line_bytes,
            tokenizer=tokenizer,
        )
        planned += blocks.plan(parts, conversion, source.limit, work, len(planned))
        log.info("%s: %d file(s), format %s", source.uri, len(files), layout.name)
    if len(set(row_types.values())) > 1:
        told = ", ".join(f"{uri}: {row_type}" for uri, row_type in row_types.items())
        raise ValueError(f"sources of different row types ({told}); ingest them in stages apart")
    return planned, raw_inputs, next(iter(row_types.values()))


def _layout(source: Source, files: list[sources.Part], settings: IngestSettings) -> formats.Format:
    if source.format != "auto":
        return formats.get(source.format)

    def first_records() -> Iterator[Any]:
        for file in files:
            for record in reading.read(file, source.hub, settings.max_line_bytes):
                value = record.value
                yield renamed(value, source.fields) if isinstance(value, dict) else value

    return formats.detect(islice(first_records(), 50), source.uri)


def _convert(planned: list[blocks.Block]) -> Iterator[blocks.BlockReport]:
    """Reports of all blocks in order, as tasks where there is enough to do."""
    todo = [block for block in planned if blocks.finished(block) is None]
    size = sum(block.bytes for block in todo)
    if len(todo) < len(planned):
        log.info("%d of %d blocks were done before", len(planned) - len(todo), len(planned))
    progress = _Progress(sum(block.bytes for block in planned))
    if len(todo) > 1 and size >= _PARALLEL_BYTES:
        _convert_in_tasks(todo, progress)
    for block in planned:
        report = blocks.convert(block)
        progress.add(block, report)
        yield report


def _convert_in_tasks(todo: list[blocks.Block], progress: _Progress) -> None:
    cluster.connect()
    convert = ray.remote(num_cpus=1, max_retries=3)(blocks.convert)
    room = max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = list(reversed(todo))
    running: dict[Any, blocks.Block] = {}
    while waiting or running:
        while waiting and len(running) < room:
            block = waiting.pop()
            running[convert.remote(block)] = block
        ready, _ = ray.wait(list(running), num_returns=1)
        progress.add(running.pop(ready[0]), ray.get(ready[0]))


class _Progress:
    """Tells rows, rate, rejects and time left, at a limited rate."""

    def __init__(self, size: int) -> None:
        self._size, self._started = size, time.monotonic()
        self._told = self._started
        self._seen: set[str] = set()
        self._bytes = self._records = self._rejects = 0

    def add(self, block: blocks.Block, report: blocks.BlockReport) -> None:
        if block.folder in self._seen:
            return
        self._seen.add(block.folder)
        self._bytes += block.bytes
        self._records += report.records
        self._rejects += report.records - report.rows
        now = time.monotonic()
        if now - self._told < _LOG_SECONDS:
            return
        self._told = now
        seconds = now - self._started
        share = self._bytes / self._size if self._size else 1.0
        log.info(
            "ingest: %d records (%.0f %% of bytes), %.0f records/s, %d rejects, %.0f s left",
            self._records,
            100 * share,
            self._records / seconds,
            self._rejects,
            seconds * (1 - share) / max(share, 1e-9),
        )


def _counts(reports: list[blocks.BlockReport]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for report in reports:
        for code, count in report.rejects.items():
            kind, reason = code.split("/", 1)
            by_reason = counts.setdefault(kind, {})
            by_reason[reason] = by_reason.get(reason, 0) + count
    return counts


def _check_invalid(
    reports: list[blocks.BlockReport], rejects: Mapping[str, Mapping[str, int]], allowed: float
) -> str | None:
    """What to say when too many records are invalid, else None."""
    records = sum(report.records for report in reports)
    reasons = rejects.get("invalid", {})
    invalid = sum(reasons.values())
    if invalid <= allowed * records:
        return None
    told = []
    for reason, count in sorted(reasons.items(), key=lambda item: -item[1])[:3]:
        examples = [
            example
            for report in reports
            for example in report.examples.get(f"invalid/{reason}", [])
        ]
        told.append(f"  {reason} ({count}): {'; '.join(examples[:2])}")
    return (
        f"{invalid} of {records} records ({100 * invalid / records:.1f} %) are invalid, at most "
        f"{100 * allowed:g} % allowed (max_invalid_share). Commonest reasons:\n" + "\n".join(told)
    )


def _formats(planned: list[blocks.Block]) -> list[str]:
    return list({b.conversion.number: b.conversion.format for b in planned}.values())


def _external(settings: IngestSettings) -> dict[str, str]:
    found = {
        f"source {number}": sources.fingerprint(source.uri, source.hub)
        for number, source in enumerate(settings.sources)
    }
    if settings.model is not None:
        found["tokenizer"] = models.fingerprint(settings.model)
    return found


def _validate(settings: IngestSettings) -> list[str]:
    problems = []
    for number, source in enumerate(settings.sources):
        hub_only = (source.hf_config, source.hf_split, source.hf_revision)
        if any(value is not None for value in hub_only) and not sources.is_hub(source.uri):
            problems.append(
                f"sources.{number}: hf_config, hf_split, hf_revision are for Hugging Face data "
                f"sets; found the path {source.uri!r}"
            )
    return problems


STAGE = Stage(
    kind="ingest",
    settings=IngestSettings,
    run=run,
    reads={"raw": Reads("any", optional=True)},
    adds=tuple(sorted({name for schema in ROW_TYPES.values() for name in schema.names})),
    external_inputs=_external,
    validate=_validate,
    estimate=estimates.ingest,
)
