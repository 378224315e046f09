"""The `alpaca_eval` stage: AlpacaEval 2's columns from annotations on disk or from judges run here.

annotations.json ───────────────┐
rows of win_rates (one judge) ──┼─► win rate, SE, discrete wins, length, LC ─► rows/, metrics
instructions (their places) ────┴─► annotations/<comparison>.json, the published layout
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from rayonale import storage
from rayonale.evaluate import alpaca_eval, length_control
from rayonale.evaluate.alpaca_eval import Annotations
from rayonale.evaluate.benchmark_files import file_name
from rayonale.lineage import fingerprints
from rayonale.stages import Reads, Settings, Stage, StageContext, StageResult

Row = dict[str, Any]

_NUMBERS = (
    *("win_rate", "standard_error", "n_wins", "n_wins_base", "n_draws", "n_total"),
    *("discrete_win_rate", "avg_length", "lc_win_rate", "lc_standard_error"),
    *("lc_length", "lc_difficulty", "lc_model", "lc_inverse_penalty"),
)
TABLE = pa.schema([("id", pa.string()), *((name, pa.float64()) for name in _NUMBERS)])


class AlpacaEvalSettings(Settings):
    """Settings of the `alpaca_eval` stage.

    Attributes:
        annotations: file of annotations; None takes the rows that are read.
        judge: whose rows, where they are of several judges.
        difficulty: file of the instructions' difficulties; None leaves them out of the model.
        gamed: file of the gamed baselines' rows; needs difficulties.
        penalty: C of the L1 penalty, `cv` for the published choice by folds, or `none`.
        length_controlled: whether to fit the length-controlled rate.
    """

    annotations: str | None = None
    judge: str | None = None
    difficulty: str | None = None
    gamed: str | None = None
    penalty: float | Literal["cv", "none"] = "cv"
    length_controlled: bool = Field(True)

    @model_validator(mode="after")
    def _choices_fit(self) -> AlpacaEvalSettings:
        if self.gamed and not self.difficulty:
            raise ValueError("gamed without difficulty: its rows need the instructions' own")
        if self.annotations and self.judge:
            raise ValueError("judge with annotations: a file holds one judge's")
        if not self.length_controlled and (self.difficulty or self.gamed):
            raise ValueError(
                "length_controlled: false ignores difficulty and gamed; leave them out"
            )
        if isinstance(self.penalty, float) and self.penalty <= 0:
            raise ValueError(f"penalty {self.penalty}: expected a positive number, cv or none")
        return self


def run(context: StageContext, settings: AlpacaEvalSettings) -> StageResult:
    """Compute the columns of every model.

    Raises:
        ValueError: both or neither of annotations and rows, rows of several judges, or
            difficulties for prompts whose place in the set is not known.
    """
    read = context.inputs.get("rows")
    if (read is None) == (settings.annotations is None):
        raise ValueError(
            f"stages.{context.name}: expected either `annotations` or rows of a win_rates stage"
        )
    if read is not None and settings.difficulty and not context.inputs.get("instructions"):
        raise ValueError(
            f"stages.{context.name}.reads.instructions: missing; difficulties belong to places in "
            "a set: expected the `instructions` stage that was sampled"
        )
    found = (
        alpaca_eval.read_annotations(settings.annotations)
        if settings.annotations is not None
        else _judged(context, settings)
    )
    rows = [{"id": name, **columns(one, settings)} for name, one in found.items()]
    storage.write_rows(storage.join(context.out, storage.ROWS), iter(rows), TABLE)
    left_out = sum(one.unannotated for one in found.values())
    return StageResult(
        rows_in=sum(len(one) for one in found.values()) + left_out,
        rows_out=len(rows),
        rejects={"invalid": {"unannotated": left_out}} if left_out else {},
        metrics={
            f"alpaca_eval/{row['id']}/{name}": float(row[name])
            for row in rows
            for name in _NUMBERS
            if row[name] is not None and math.isfinite(row[name])
        },
        details={"alpaca_eval": rows, "difficulty": settings.difficulty is not None,
                 "gamed": settings.gamed is not None},
    )  # fmt: skip


def columns(annotations: Annotations, settings: AlpacaEvalSettings) -> Row:
    """The numbers of one model; None where they were not asked for or do not exist."""
    row: Row = dict.fromkeys(_NUMBERS) | alpaca_eval.win_rate(annotations).as_dict()
    if not settings.length_controlled:
        return row
    penalty = length_control.NO_PENALTY if settings.penalty == "none" else settings.penalty
    difficulty = gamed = None
    if settings.difficulty is not None:
        known = length_control.read_difficulty(settings.difficulty)
        difficulty = length_control.difficulties_of(annotations, known)
    if settings.gamed is not None:
        gamed = length_control.read_gamed(settings.gamed)
    fitted = asdict(length_control.length_controlled(annotations, difficulty, gamed, penalty))
    return row | {f"lc_{name}": fitted[name] for name in fitted if f"lc_{name}" in _NUMBERS}


def _judged(context: StageContext, settings: AlpacaEvalSettings) -> dict[str, Annotations]:
    """Annotations of each comparison of the rows read, which are written beside them."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    judges: set[str] = set()
    for row in storage.read_rows(context.rows()):
        judges.add(row["judge"])
        if settings.judge in (None, row["judge"]):
            groups.setdefault(row["comparison"], []).append(row)
    if not judges:
        return {}  # a judge that read nothing: there is no win rate
    if not groups or (settings.judge is None and len(judges) > 1):
        raise ValueError(
            f"judge {settings.judge!r}: the rows are of {', '.join(sorted(judges)) or 'none'}; "
            "expected the name of one of them"
        )
    places = _places(context) if context.inputs.get("instructions") else None
    found = {}
    for comparison, rows in groups.items():
        annotations = alpaca_eval.to_annotations(rows, places)
        name = file_name(comparison, ".json")
        storage.write_json(storage.join(context.out, "annotations", name), annotations)
        (found[comparison],) = alpaca_eval.from_rows(annotations).values()
    return found


def _places(context: StageContext) -> dict[str, Row]:
    """Prompt id → what annotations say of its place in the set."""
    columns = ["index", "dataset", "instruction"]
    rows = storage.read_rows(context.rows("instructions"), ["id", *columns])
    return {row["id"]: {name: row[name] for name in columns} for row in rows}


def _external(settings: AlpacaEvalSettings) -> dict[str, str]:
    named = (settings.annotations, settings.difficulty, settings.gamed)
    return {f"file:{uri}": fingerprints.of_file(uri)["sha256"] for uri in named if uri}


STAGE = Stage(
    kind="alpaca_eval",
    settings=AlpacaEvalSettings,
    run=run,
    reads={
        "rows": Reads(
            "rows",
            columns=("comparison", "judge", "outcome", "response_a", "response_b"),
            optional=True,
        ),
        "instructions": Reads("rows", ("id", "index", "dataset", "instruction"), optional=True),
    },
    adds=tuple(TABLE.names),
    external_inputs=_external,
)
