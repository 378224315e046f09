"""Stage `reshape`: rows of one type as rows of another, for losses that read that type.

    pair ─► labelled      two rows: the chosen response, desired, and the rejected one, not
    pair ─► ranked_list   a list of two, or the one that the pair was picked from
    ranked_list ─► pair   best against worst (best-of-n data); equal scores are filtered

Splits, origin and metadata stay; the id of a pair's labelled rows is a hash of its id and the side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

from pydantic import model_validator

from rayonale import storage
from rayonale.data import estimates, ids
from rayonale.data.left_out import LeftOut, counts, reject
from rayonale.records import REJECT, ROW_TYPES, RejectKind
from rayonale.stages import Reads, Settings, Stage, StageContext, StageResult
from rayonale.train.trees import row_type_of

Row = dict[str, Any]


class ReshapeSettings(Settings):
    """Settings of `reshape`.

    Attributes:
        to: type of the rows that are wanted.
        scores: of a list made from a pair: `stored` takes its two scores, `preference` 1 and 0
            (the label alone, for data without scores), `listed` the whole list that the pair was
            picked from (`pair_samples`). Lists only, where it must be given.
    """

    to: Literal["pair", "labelled", "ranked_list"]
    scores: Literal["stored", "preference", "listed"] | None = None

    @model_validator(mode="after")
    def _choices_fit(self) -> ReshapeSettings:
        if (self.scores is not None) != (self.to == "ranked_list"):
            raise ValueError(
                f"scores: found {self.scores!r} with to: {self.to}; expected `stored`, "
                "`preference` or `listed` for ranked_list, nothing for others"
            )
        return self


def labelled_of_pair(row: Row, settings: ReshapeSettings) -> list[Row]:
    """The two responses apart."""
    return [
        {
            **row,
            "id": ids.key_of(f"{row['id']} {side}").hex(),
            "response": row[side],
            "label": side == "chosen",
            "score": row[f"score_{side}"],
        }
        for side in ("chosen", "rejected")
    ]


def list_of_pair(row: Row, settings: ReshapeSettings) -> list[Row]:
    """A list of two, the chosen one first, or the list that the pair keeps."""
    if settings.scores == "listed":
        if len(row.get("responses") or []) < 2:
            raise LeftOut(RejectKind.INVALID, "no_list", "the pair keeps no list of responses")
        return [row]
    scores = [1.0, 0.0]
    if settings.scores == "stored":
        scores = [row["score_chosen"], row["score_rejected"]]
        if None in scores:
            raise LeftOut(RejectKind.INVALID, "no_scores", f"scores are {scores}")
    return [{**row, "responses": [row["chosen"], row["rejected"]], "scores": scores}]


def pair_of_list(row: Row, settings: ReshapeSettings) -> list[Row]:
    """The first best response against the first worst one."""
    scores = row["scores"]
    if not scores or None in scores or len(scores) != len(row["responses"]):
        raise LeftOut(RejectKind.INVALID, "no_scores", f"scores are {scores}")
    best, worst = scores.index(max(scores)), scores.index(min(scores))
    if scores[best] == scores[worst]:
        raise LeftOut(RejectKind.FILTERED, "equal_scores", f"all scores are {scores[best]}")
    return [
        {
            **row,
            "chosen": row["responses"][best],
            "rejected": row["responses"][worst],
            "score_chosen": scores[best],
            "score_rejected": scores[worst],
            "confidence": None,
        }
    ]


WAYS: dict[tuple[str, str], Callable[[Row, ReshapeSettings], list[Row]]] = {
    ("pair", "labelled"): labelled_of_pair,
    ("pair", "ranked_list"): list_of_pair,
    ("ranked_list", "pair"): pair_of_list,
}


def run(context: StageContext, settings: ReshapeSettings) -> StageResult:
    """Convert all rows.

    Raises:
        ValueError: there is no way from the rows' type to the one that is wanted.
    """
    found = row_type_of(storage.schema(context.rows()).names)
    if (found, settings.to) not in WAYS:
        ways = ", ".join(f"{a} to {b}" for a, b in WAYS)
        raise ValueError(
            f"stages.{context.name}.to: no way from {found} rows to {settings.to}; choices: {ways}"
        )
    convert = WAYS[found, settings.to]
    rejects: list[Any] = []
    read = 0

    def rows() -> Iterator[Row]:
        nonlocal read
        for row in storage.read_rows(context.rows()):
            read += 1
            try:
                yield from convert(row, settings)
            except LeftOut as left_out:
                rejects.append(reject(row, left_out.kind, left_out.reason, str(left_out)))

    schema = ROW_TYPES[settings.to]
    kept = storage.write_rows(
        storage.join(context.out, storage.ROWS), _only(rows(), schema), schema
    )
    storage.write_rows(storage.join(context.out, storage.REJECTS), iter(rejects), REJECT)
    return StageResult(rows_in=read, rows_out=kept, rejects=counts(rejects))


def _only(rows: Iterator[Row], schema: Any) -> Iterator[Row]:
    return ({name: row.get(name) for name in schema.names} for row in rows)


STAGE = Stage(
    kind="reshape",
    settings=ReshapeSettings,
    run=run,
    reads={"rows": Reads("rows", columns=("id", "split", "prompt"))},
    adds=tuple(sorted({name for schema in ROW_TYPES.values() for name in schema.names})),
    estimate=estimates.reshape,
)
