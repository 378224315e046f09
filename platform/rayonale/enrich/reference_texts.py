"""Stage `reference_texts`: texts of the data in the place of a policy's answers.

    row ─ chosen ─► responses: [text]        the same ids as a samples stage on the same rows

Policies are compared with people's texts by reading this stage beside their samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from rayonale import storage
from rayonale.data.left_out import counts, reject
from rayonale.enrich import estimates
from rayonale.enrich.generation import Split
from rayonale.enrich.reward_task import text_of
from rayonale.enrich.samples import SampleSettings, select
from rayonale.records import REJECT, RejectKind
from rayonale.stages import Reads, Settings, Stage, StageContext, StageResult

Row = dict[str, Any]


class ReferenceTextSettings(Settings):
    """Settings of `reference_texts`.

    Attributes:
        column: the response that is shown as the answer.
        splits, limit: as in the samples stage that it is compared with.
    """

    column: Literal["chosen", "rejected", "response"] = "chosen"
    splits: tuple[Split, ...] = ("test",)
    limit: int | None = Field(default=None, ge=1)


def run(context: StageContext, settings: ReferenceTextSettings) -> StageResult:
    """Take one text of each distinct prompt.

    Raises:
        ValueError: the rows have no such column.
    """
    schema = storage.schema(context.rows()).remove_metadata()
    if settings.column not in schema.names:
        raise ValueError(
            f"stages.{context.name}.column: no {settings.column!r} in {context.rows()}; found "
            f"{', '.join(schema.names)}"
        )
    rejects: list[Any] = []

    def rows() -> Iterator[Row]:
        chosen = SampleSettings(splits=settings.splits, limit=settings.limit)
        for row in select(context.rows(), chosen):
            found = text_of(row[settings.column])
            if found is None:
                why = f"{settings.column}: expected one assistant message"
                rejects.append(reject(row, RejectKind.INVALID, f"no_{settings.column}", why))
                continue
            yield {**row, "responses": [found]}

    kept = [field for field in schema if field.name != "responses"]
    columns = pa.schema([*kept, ("responses", pa.list_(pa.string()))])
    written = storage.write_rows(storage.join(context.out, storage.ROWS), rows(), columns)
    storage.write_rows(storage.join(context.out, storage.REJECTS), iter(rejects), REJECT)
    return StageResult(rows_in=written + len(rejects), rows_out=written, rejects=counts(rejects))


STAGE = Stage(
    kind="reference_texts",
    settings=ReferenceTextSettings,
    run=run,
    reads={"rows": Reads("rows", columns=("id", "split", "prompt"))},
    adds=("responses",),
    estimate=estimates.reference_texts,
)
