"""Stage `tinyworld_naive`: judgements as a child would write them, with the label's score.

The small world's model cannot be asked for a child's words, as the template `judge_naive` asks a
larger one; what it would write is drawn here. For the control `preference_reversal`.

    {"label": 3.0, …} → {"judgements": [{"text": "I like it, it is so nice! [RESULT] 3", …}]}
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pydantic import Field

from rayonale import storage
from rayonale.data.left_out import counts, reject
from rayonale.evaluate.verdicts import read_verdict, scale
from rayonale.generate.stream import added
from rayonale.records import JUDGEMENT, REJECT, RejectKind
from rayonale.stages import Reads, Settings, Stage, StageContext, StageResult
from rayonale.tinyworld.judgements import naive_judgement

Row = dict[str, Any]


class TinyworldNaiveSettings(Settings):
    """Settings of `tinyworld_naive`: how many judgements of each input, and the drawing's seed."""

    n: int = Field(1, ge=1)
    seed: int = Field(0, ge=0)


def naive(row: Row, number: int, seed: int) -> Row:
    """One naive judgement of an input with a score as label."""
    rng = random.Random(f"tinyworld naive {seed} {row['id']} {number}")
    text = naive_judgement(int(row["label"]), rng)
    found = read_verdict(text, scale(1, 5))
    rest = dict.fromkeys(field.name for field in JUDGEMENT)
    told = {"text": text, "rationale": found.rationale, "verdict": found.value}
    return {**rest, **told, "status": found.status, "finish_reason": "stop"}


def run(context: StageContext, settings: TinyworldNaiveSettings) -> StageResult:
    """Draw naive judgements of inputs with one response and a label."""
    rejects: list[Any] = []
    read = 0

    def rows() -> Iterator[Row]:
        nonlocal read
        for row in storage.read_rows(context.rows()):
            read += 1
            if row["label"] is None or len(row["responses"]) != 1:
                why = f"label {row['label']}, {len(row['responses'])} responses"
                rejects.append(reject(row, RejectKind.FILTERED, "no_score", why))
                continue
            judged = [naive(row, number, settings.seed) for number in range(settings.n)]
            yield {**row, "judgements": judged}

    adds = pa.schema([("judgements", pa.list_(JUDGEMENT))])
    schema = added(storage.schema(context.rows()), adds)
    written = storage.write_rows(storage.join(context.out, storage.ROWS), rows(), schema)
    storage.write_rows(storage.join(context.out, storage.REJECTS), iter(rejects), REJECT)
    return StageResult(rows_in=read, rows_out=written, rejects=counts(rejects))


STAGE = Stage(
    kind="tinyworld_naive",
    settings=TinyworldNaiveSettings,
    run=run,
    reads={"rows": Reads("rows", ("id", "label", "responses"))},
    adds=("judgements",),
)
