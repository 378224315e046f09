"""Stage `permute_rationales`: the rationales of rows, given to other rows of their split.

    row   rationales            after
    0     "A keeps the order"   "B names hammer"   ← of row 2
    1     "A sounds sad"        "A keeps the order"
    2     "B names hammer"      "A sounds sad"

The paper's control for irrelevant rationales (arXiv 2407.14477, C.4). Unlike the `permuted` control
of the `rationales` stage it generates nothing, so that original and permuted rationales are the
same texts, graded or not. Rows without rationales stay as they are.
"""

from __future__ import annotations

from typing import Any

from rayonale import storage
from rayonale.enrich import estimates
from rayonale.enrich.rationales import COLUMN, derangement
from rayonale.stages import Reads, Settings, Stage, StageContext, StageResult


class PermuteSettings(Settings):
    """Settings of the `permute_rationales` stage.

    Attributes:
        seed: of the permutation.
    """

    seed: int = 0


def run(context: StageContext, settings: PermuteSettings) -> StageResult:
    """Give each row the rationales of another row of its split.

    Holds all rationales in memory: a control for experiments, not for the largest data.

    Raises:
        ValueError: a split has a single row with rationales, which no other can lend its to.
    """
    given = exchanged(context.rows(), settings.seed)
    schema = storage.schema(context.rows()).remove_metadata()
    rows = (
        {**row, COLUMN: given.get(row["id"], row[COLUMN])}
        for row in storage.read_rows(context.rows())
    )
    written = storage.write_rows(storage.join(context.out, storage.ROWS), rows, schema)
    return StageResult(rows_in=written, rows_out=written, metrics={"permuted": float(len(given))})


def exchanged(rows: str, seed: int) -> dict[str, Any]:
    """id → the rationales of another row of its split; no row gets its own."""
    splits: dict[str, list[tuple[str, Any]]] = {}
    for row in storage.read_rows(rows, ["id", "split", COLUMN]):
        if row[COLUMN]:
            splits.setdefault(row["split"], []).append((row["id"], row[COLUMN]))
    given: dict[str, Any] = {}
    for split, held in splits.items():
        if len(held) == 1:
            raise ValueError(
                f"split {split!r} has one row with rationales; expected two or more, so that each "
                "can be given another's"
            )
        order = derangement([row_id for row_id, _ in held], seed)
        for (row_id, _), there in zip(held, order, strict=True):
            given[row_id] = held[there][1]
    return given


STAGE = Stage(
    kind="permute_rationales",
    settings=PermuteSettings,
    run=run,
    reads={"rows": Reads("rows", ("id", "split", COLUMN))},
    adds=(COLUMN,),
    estimate=estimates.permuted,
)
