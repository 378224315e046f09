"""What reading, checking and reshaping data will take: its own code, timed on a sample.

tinyworld_pairs  size rows, the first of them drawn
ingest           records: counted, or bytes over the bytes of the first; converted here
reshape, goals   each row of the sample converted here
ambiguity        each pair of the sample measured here
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from rayonale import storage
from rayonale.data import formats, reading, sources
from rayonale.data.conversion import Conversion, Converter
from rayonale.data.fields import BadRow, renamed
from rayonale.data.left_out import LeftOut
from rayonale.data.splits import NAMES
from rayonale.planning.flow import (
    BYTES_PER_TOKEN,
    SAMPLE_ROWS,
    Estimate,
    Flow,
    Row,
    distinct_share,
    not_estimated,
    packed_bytes,
)
from rayonale.planning.outlook import Outlook

if TYPE_CHECKING:
    from rayonale.data.ambiguity import AmbiguitySettings
    from rayonale.data.ingest import IngestSettings
    from rayonale.data.pair_samples import PairSamplesSettings
    from rayonale.data.reshape import ReshapeSettings
    from rayonale.data.settings import Source
    from rayonale.tinyworld.judged import TinyworldJudgementSettings
    from rayonale.tinyworld.lists import TinyworldListsSettings
    from rayonale.tinyworld.stage import TinyworldPairsSettings

_PACKED = 4.0  # how much text shrinks in .gz and .zst; assumed
_COUNTED_BYTES = 64 << 20  # of a file that is read to count its lines
_PARALLEL_BYTES = 64 << 20  # from here on ingestion takes all cores
_SPLIT_ROWS = tuple(f"rows_{name}" for name in NAMES)
_TEXTS = ("prompt", "chosen", "rejected", "response", "judgement")
# What is asked of data that is not here, by the type of its rows.
_ASKED = {
    "pair": ("prompt_tokens", "chosen_tokens", "rejected_tokens"),
    "judgement_set": ("prompt_tokens", "response_tokens", "responses", "judgement_tokens"),
}


def drawn_rows(settings: Any, draw: Callable[[int], list[Row]]) -> Estimate:
    """`size` raw rows, of which the first are drawn and timed.

    Args:
        draw: the first so many rows.
    """
    size = settings.size
    started = time.perf_counter()
    rows = draw(min(size, SAMPLE_ROWS))
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    per_row = (time.perf_counter() - started) / len(rows)
    per_line = len(text.encode()) / len(rows)
    return Estimate(
        rows_out=size, parts={"rows": size * per_row}, bytes=size * per_line,
        peak_bytes=size * per_line, basis=(f"{len(rows)} rows drawn and timed",),
        flow=Flow(rows={"": float(size)}, sample=rows, bytes_per_row=per_line),
    )  # fmt: skip


def tinyworld_pairs(outlook: Outlook, settings: TinyworldPairsSettings) -> Estimate:
    """Pairs of the small world."""
    from rayonale.tinyworld.pairs import generate_pairs
    from rayonale.tinyworld.stage import knobs_of

    knobs, start = knobs_of(settings), settings.start
    return drawn_rows(
        settings, lambda size: list(generate_pairs(size, settings.seed, knobs, start=start))
    )


def tinyworld_lists(outlook: Outlook, settings: TinyworldListsSettings) -> Estimate:
    """Scored lists of the small world."""
    from rayonale.tinyworld.lists import list_row

    return drawn_rows(
        settings,
        lambda size: [list_row(settings.seed, i, settings.responses) for i in range(size)],
    )


def tinyworld_judgements(outlook: Outlook, settings: TinyworldJudgementSettings) -> Estimate:
    """Judged inputs of the small world."""
    from rayonale.tinyworld.judged import pairwise_row, pointwise_row

    draw = pointwise_row if settings.task == "pointwise" else pairwise_row
    return drawn_rows(
        settings, lambda size: [draw(settings.seed, i, settings) for i in range(size)]
    )


def ingest(outlook: Outlook, settings: IngestSettings) -> Estimate:
    """Records of all sources, less what a sample's share of rejects takes."""
    found = [_source(outlook, settings, number) for number in range(len(settings.sources))]
    raw = outlook.reads.get("raw")
    if isinstance(raw, Flow):
        found.insert(0, _converted(raw.sample, raw.total, raw.total * raw.bytes_per_row,
                                   _conversion(settings, None), "auto"))  # fmt: skip
    told = {name: n for name in ("rows", *_SPLIT_ROWS) if (n := outlook.given(name)) is not None}
    if told:
        return _given(outlook, settings, told, found)
    if missing := next((each.missing for each in found if each.missing), None):
        return not_estimated(missing)
    rows: dict[str, float] = {}
    for each in found:
        for split, count in each.flow.rows.items():
            rows[split] = rows.get(split, 0.0) + count
    sample = [row for each in found for row in each.flow.sample][:SAMPLE_ROWS]
    size = sum(each.bytes or 0.0 for each in found)
    work = sum(each.parts["records"] for each in found)
    if sum(each.peak_bytes or 0.0 for each in found) >= _PARALLEL_BYTES:
        work /= outlook.session.cores
    total = sum(rows.values())
    flow = Flow(rows=rows, sample=sample, distinct=distinct_share(sample),
                bytes_per_row=size / total if total else 0.0)  # fmt: skip
    return Estimate(
        rows_in=sum(each.rows_in for each in found), rows_out=total, parts={"records": work},
        bytes=size, peak_bytes=2 * size, flow=flow,
        basis=tuple(dict.fromkeys(told for each in found for told in each.basis)),
    )  # fmt: skip


def _given(
    outlook: Outlook,
    settings: IngestSettings,
    told: Mapping[str, float],
    found: Sequence[Estimate],
) -> Estimate:
    """With the numbers of rows that the user gives, and lengths where there is no sample.

    `rows` are records that are split by hash; a source with a split of its own needs
    `rows_<split>`.
    """
    for each, source in zip(found[-len(settings.sources) :], settings.sources, strict=False):
        if each.missing and source.split and f"rows_{source.split}" not in told:
            return not_estimated(f"{source.uri} is all of split {source.split}: give --assume "
                                 f"{outlook.name}.rows_{source.split}")  # fmt: skip
    sample = [row for each in found for row in each.flow.sample][:SAMPLE_ROWS]
    tokens = {n: v for n in _TEXTS if (v := outlook.given(f"{n}_tokens")) is not None}
    keep = outlook.given("keep")
    share = 1.0 if keep is None else keep
    rows = {s: n * share for s, n in _by_split(settings, told).items() if n}
    records = sum(rows.values()) / share if share else 0.0
    per_row = packed_bytes(sample) or sum(tokens.values()) * BYTES_PER_TOKEN
    known = [each.parts["records"] / each.rows_in for each in found if each.parts and each.rows_in]
    responses = outlook.given("responses")
    texts = {} if responses is None else {"responses": responses}
    flow = Flow(rows=rows, sample=sample, tokens=tokens, texts=texts, bytes_per_row=per_row)
    size = flow.total * per_row
    parts = {"records": records * (max(known) if known else 1e-4)}
    basis = [", ".join(f"{n:,.0f} {name} given" for name, n in told.items())]
    if not known:
        basis.append("10,000 records/s assumed")
    return Estimate(rows_in=records, rows_out=flow.total, parts=parts, bytes=size,
                    peak_bytes=2 * size, basis=tuple(basis), flow=flow)  # fmt: skip


def _by_split(settings: IngestSettings, told: Mapping[str, float]) -> dict[str, float]:
    """Rows of each split: as told, else its share of the records."""
    shares = {name: getattr(settings.splits, name) for name in NAMES}
    records = told.get("rows", 0.0)
    return {name: told.get(f"rows_{name}", records * share) for name, share in shares.items()}


def _source(outlook: Outlook, settings: IngestSettings, number: int) -> Estimate:
    """Of one source: its first records are read and converted."""
    source = settings.sources[number]
    if sources.is_hub(source.uri):
        layout = "pair" if source.format == "auto" else formats.get(source.format).row_type
        asked = [f"{outlook.name}.{name}" for name in _ASKED.get(layout, _ASKED["pair"])]
        return not_estimated(
            f"{source.uri}: not read before it is ingested; give --assume {outlook.name}.rows, "
            f"{', '.join(asked[:-1])} and {asked[-1]}"
        )
    try:
        files = sources.find(source.uri)
        records = list(islice(_records(files, source, settings), SAMPLE_ROWS))
        total = _count(files, source, records, settings.max_line_bytes)
    except (ValueError, OSError) as error:
        return not_estimated(str(error))
    read = float(sum(file.bytes for file in files))
    return _converted(records, total, read, _conversion(settings, source), source.format)


def _records(
    files: Sequence[sources.Part], source: Source, settings: IngestSettings
) -> Iterator[Any]:
    for file in files:
        for record in reading.read(file, source.hub, settings.max_line_bytes):
            yield record.value


def _count(
    files: Sequence[sources.Part], source: Source, first: Sequence[Any], longest: int
) -> float:
    """Records of a source: rows of Parquet files, lines of small ones, else bytes over bytes."""
    total = 0.0
    for file in files:
        fs, path = storage.filesystem(file.uri)
        if file.kind == "parquet":
            with fs.open(path, "rb") as handle:
                total += pq.ParquetFile(handle).metadata.num_rows
        elif file.bytes <= _COUNTED_BYTES:
            total += sum(1 for _ in reading.read(file, source.hub, longest))
        else:
            texts = [len(json.dumps(record, ensure_ascii=False).encode()) + 1 for record in first]
            packed = _PACKED if file.uri.endswith((".gz", ".zst")) else 1.0
            total += packed * file.bytes / (sum(texts) / len(texts))
    return min(total, source.limit) if source.limit else total


def _conversion(settings: IngestSettings, source: Source | None) -> Conversion:
    return Conversion(
        number=0, format="", fields=source.fields if source else {},
        hub=source.hub if source else sources.Hub(), id_field=None, annotator_field=None,
        split=source.split if source else None, splits=settings.splits, limits=settings.limits,
        drop_equal_scores=settings.drop_equal_scores, max_line_bytes=settings.max_line_bytes,
        tokenizer=None,
    )  # fmt: skip


def _converted(
    records: Sequence[Any], total: float, read: float, conversion: Conversion, name: str
) -> Estimate:
    """The sample through formats and checks; what share goes on, how long a record takes.

    Args:
        read: bytes of the source, as the estimate's peak.
    """
    if not records:
        return not_estimated("the source holds no records")
    try:
        plain = [renamed(r, conversion.fields) if isinstance(r, dict) else r for r in records]
        layout = formats.detect(plain[:50], "source") if name == "auto" else formats.get(name)
    except ValueError as error:
        return not_estimated(str(error))
    converter = Converter(replace(conversion, format=layout.name), layout)
    rows: list[Row] = []
    started = time.perf_counter()
    for number, record in enumerate(records, 1):
        try:
            row, _ = converter.row(record, "sample", number)
        except BadRow:
            continue
        row = {key: value for key, value in row.items() if not key.startswith("_")}
        rows.append({**row, "id": f"sample-{number}", "occurrence": 0})
    packed = packed_bytes(rows)  # written twice: to work/, then in order
    per_record = (time.perf_counter() - started) / len(records)
    kept = total * len(rows) / len(records)
    shares = {conversion.split: 1.0} if conversion.split else {
        split: getattr(conversion.splits, split) for split in NAMES
    }  # fmt: skip
    flow = Flow(rows={s: kept * share for s, share in shares.items() if share}, sample=rows)
    return Estimate(
        rows_in=total, rows_out=kept, parts={"records": total * per_record}, bytes=kept * packed,
        peak_bytes=read, flow=flow,
        basis=(f"{len(records)} records read, converted and timed",),
    )  # fmt: skip


def timed_rows(outlook: Outlook, flow: Flow, convert: Callable[[Row], list[Row]]) -> Estimate:
    """Each row of the sample converted here, and scaled to all rows."""
    if not flow.sample:
        return not_estimated("there are no rows yet to time it on", flow, rows_in=flow.total)
    rows: list[Row] = []
    started = time.perf_counter()
    for row in flow.sample:
        try:
            rows += convert(row)
        except LeftOut:
            continue
    packed = packed_bytes(rows)
    per_row = (time.perf_counter() - started) / len(flow.sample)
    made = len(rows) / len(flow.sample)
    left = replace(flow.scaled(made), sample=rows[:SAMPLE_ROWS], bytes_per_row=packed)
    return Estimate(
        rows_in=flow.total, rows_out=left.total, parts={"rows": flow.total * per_row},
        bytes=left.total * packed, peak_bytes=left.total * packed, flow=left,
        basis=(f"{len(flow.sample)} rows converted and timed",),
    )  # fmt: skip


def reshape(outlook: Outlook, settings: ReshapeSettings) -> Estimate:
    """Rows of another type: a pair is two labelled rows, or one list."""
    from rayonale.data.reshape import WAYS
    from rayonale.train.trees import row_type_of

    flow = outlook.flow()
    if not flow.sample:
        return not_estimated("there are no rows yet to reshape", flow, rows_in=flow.total)
    held = [name for name, value in flow.sample[0].items() if value is not None]
    convert = WAYS.get((row_type_of(held), settings.to))
    if convert is None:
        return not_estimated(f"no way from these rows to {settings.to}", flow)
    made = {"pair": ("chosen", "rejected"), "labelled": ("response",),
            "ranked_list": ("responses",)}[settings.to]  # fmt: skip
    gone = {"chosen", "rejected", "response", "responses"} - set(made)

    def only(row: Row) -> list[Row]:
        return [{k: v for k, v in one.items() if k not in gone} for one in convert(row, settings)]

    return timed_rows(outlook, flow, only)


def ambiguity(outlook: Outlook, settings: AmbiguitySettings) -> Estimate:
    """Every pair is measured; with a split wanted, the sample's share of it goes on."""
    import statistics

    from rayonale.data import edit_distance
    from rayonale.data.ambiguity import cutter, split_of

    flow = outlook.flow()
    rows = [row for row in flow.sample if row.get("chosen") and row.get("rejected")]
    if not rows:
        return not_estimated("there are no pairs yet to measure", flow, rows_in=flow.total)
    cut = cutter(settings.model)
    started = time.perf_counter()
    distances = [
        edit_distance.normalised(
            *(cut(row[side][-1]["content"]) for side in ("chosen", "rejected"))
        )
        for row in rows
    ]
    per_row = (time.perf_counter() - started) / len(rows)
    sure = [row.get("confidence") for row in rows]
    known = [value for value in sure if value is not None]
    if not known:
        return not_estimated("no row of the sample has a confidence, so it would stop", flow)
    medians = statistics.median(known), statistics.median(distances)
    names = [split_of(c, d, medians, settings.ties) for c, d in zip(sure, distances, strict=True)]
    kept = [row for row, name in zip(rows, names, strict=True) if settings.keep in ("all", name)]
    left = replace(flow.scaled(len(kept) / len(rows)), sample=kept)
    size = left.total * flow.bytes_per_row
    return Estimate(
        rows_in=flow.total, rows_out=left.total, parts={"rows": flow.total * per_row},
        bytes=size, peak_bytes=size, flow=left,
        basis=(f"{len(rows)} pairs measured and timed",),
    )  # fmt: skip


def pair_samples(outlook: Outlook, settings: PairSamplesSettings) -> Estimate:
    """A pair of every row that has samples; those that none can be made of are not known."""
    from rayonale.data.pair_samples import pair_of

    flow = outlook.flow()
    if not flow.sample or not flow.sample[0].get(f"{settings.reward}_responses"):
        left = replace(flow, sample=[], tokens=_pair_tokens(flow.tokens))
        return Estimate(
            rows_in=flow.total, rows_out=left.total, parts={"rows": flow.total * 1e-4},
            bytes=flow.total * flow.bytes_per_row, flow=left,
            basis=("every row assumed to have a pair", "10,000 rows/s assumed"),
        )  # fmt: skip
    return timed_rows(outlook, flow, lambda row: [pair_of(row, settings)])


def _pair_tokens(tokens: Mapping[str, float]) -> dict[str, float]:
    """Both sides of a pair are as long as the responses that they come from."""
    length = tokens.get("responses")
    sides = {} if length is None else {"chosen": length, "rejected": length}
    return {**tokens, **sides}
