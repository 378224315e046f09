"""Stage `judge_accuracy`: judges against labels, with intervals, and against each other.

    rows of judge stages ─ judge_verdicts.py ─► a verdict an input ─ agreement.py ─► tables

Unreadable judgements are counted beside what is measured, and `accuracy_all` counts them as wrong.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from rayonale import storage
from rayonale.data.left_out import counts, reject
from rayonale.evaluate import agreement, estimates
from rayonale.evaluate.judge_tables import OF_VERDICTS, Bias, measured
from rayonale.evaluate.judge_verdicts import (
    Strategy,
    kind_of,
    strategies_for,
    told_of,
)
from rayonale.records import REJECT, RejectKind
from rayonale.stages import Reads, Settings, Stage, StageContext, StageOutput, StageResult

Row = dict[str, Any]

ROWS = pa.schema(
    [
        ("id", pa.string()),  # <judge>/<strategy>/<input>
        ("judge", pa.string()),  # the judge stage's name
        ("kind", pa.string()),  # pointwise | pairwise | apart
        ("strategy", pa.string()),
        ("input", pa.string()),
        ("category", pa.string()),
        ("label", pa.float64()),
        ("told", pa.float64()),
        ("flipped", pa.bool_()),
    ]
)


class JudgeAccuracySettings(Settings):
    """Settings of `judge_accuracy`.

    Attributes:
        strategies: how N judgements become one verdict, where a judge stage has what they need.
        differences: [one, other] judges (names of judge stages, or stage/strategy: without one,
            `first`) that judged the same inputs; the differences of their measures are given with
            intervals, paired by input.
        category: key of the rows' metadata that names their category (`subset` of RewardBench and
            LLMBar); accuracy is then given for each, with their plain mean.
        level, seed, resamples: of the bootstrap intervals.
    """

    strategies: tuple[Strategy, ...] = Field(default=("first", "vote", "expected"), min_length=1)
    differences: tuple[tuple[str, str], ...] = ()
    category: str | None = None
    level: float = Field(default=0.95, gt=0, lt=1)
    seed: int = 0
    resamples: int = Field(default=1_000, ge=100)

    @model_validator(mode="after")
    def _two_judges(self) -> JudgeAccuracySettings:
        if same := [one for one, other in self.differences if one == other]:
            raise ValueError(f"differences: {same[0]!r} with itself")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """Of intervals."""
        return {"level": self.level, "seed": self.seed, "resamples": self.resamples}


def run(context: StageContext, settings: JudgeAccuracySettings) -> StageResult:
    """Measure judges.

    Raises:
        ValueError: no input has a label, or a difference is of judges that share no inputs.
    """
    judges: list[StageOutput] = context.inputs["judgements"]
    rows: list[Row] = []
    rejects: list[Any] = []
    tables: list[Row] = []
    for output in judges:
        found, left, table = judged(output, settings)
        rows += found
        rejects += left
        tables += table
    if not rows:
        reasons = dict(Counter(row["reason"] for row in rejects))
        raise ValueError(f"stages.{context.name}: nothing to measure: {json.dumps(reasons)}")
    apart = [
        entry
        for one, other in settings.differences
        for entry in differences(rows, one, other, settings)
    ]
    storage.write_rows(storage.join(context.out, storage.ROWS), iter(rows), ROWS)
    storage.write_rows(storage.join(context.out, storage.REJECTS), iter(rejects), REJECT)
    return StageResult(
        rows_in=len(rows) + len(rejects),
        rows_out=len(rows),
        rejects=counts(rejects),
        metrics=_metrics(tables),
        details={"judges": tables, "differences": apart},
    )


def judged(
    output: StageOutput, settings: JudgeAccuracySettings
) -> tuple[list[Row], list[Row], list[Row]]:
    """(rows, rejects, table entries) of one judge stage; one row at a time is whole in memory."""
    rows: list[Row] = []
    rejects: list[Any] = []
    bias = Bias()
    for row in storage.read_rows(output.rows):
        if not row["judgements"]:
            rejects.append(reject(row, RejectKind.INVALID, "no_judgement", "no judgements"))
            continue
        bias.see(row)
        kind = kind_of(row["judgements"])
        for strategy in strategies_for(row["judgements"], settings.strategies):
            key = f"{output.name}/{strategy}/{row['id']}"
            told = told_of(row["judgements"], strategy, row.get("label"))
            if row.get("label") is None:
                rejects.append(
                    reject({**row, "id": key}, RejectKind.FILTERED, "no_label", "label is null")
                )
                continue
            if told.value is None:
                reasons = sorted({e["reason"] for e in row["judgements"] if e["reason"]})
                rejects.append(
                    reject({**row, "id": key}, RejectKind.INVALID, "unreadable",
                           f"found {', '.join(reasons)}, expected a verdict")
                )  # fmt: skip
                bias.unreadable[kind, strategy] += 1
                continue
            rows.append(
                {
                    "id": key,
                    "judge": output.name,
                    "kind": kind,
                    "strategy": strategy,
                    "input": row["id"],
                    "category": category_of(row, settings.category),
                    "label": row["label"],
                    "told": told.value,
                    "flipped": told.flipped,
                }
            )
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["strategy"]), []).append(row)
    tables = [
        {"judge": output.name, "kind": kind, "strategy": strategy,
         **measured(group, bias, kind, bias.unreadable[kind, strategy], settings.options)}
        for (kind, strategy), group in groups.items()
    ]  # fmt: skip
    return rows, rejects, tables


def category_of(row: Row, category: str | None) -> str | None:
    """Category of an input, from its metadata."""
    if category is None:
        return None
    value = json.loads(row.get("metadata") or "{}").get(category)
    return None if value is None else str(value)


def differences(
    rows: Sequence[Row], one: str, other: str, settings: JudgeAccuracySettings
) -> list[Row]:
    """Differences of two judges' measures on the inputs that both could tell.

    Raises:
        ValueError: an unknown judge or strategy, or no inputs in common.
    """
    mine, theirs = _told_by(rows, one), _told_by(rows, other)
    shared = sorted(mine.keys() & theirs.keys())
    if not shared:
        raise ValueError(f"differences: {one!r} and {other!r} have no input in common")
    label = [mine[name]["label"] for name in shared]
    told = [np.array([side[name]["told"] for name in shared]) for side in (mine, theirs)]
    comparisons = mine[shared[0]]["kind"] != "pointwise"
    found: list[Row] = []
    for name in ("tie_aware",) if comparisons else ("accuracy", "pearson", "mean_error"):
        values = [agreement.settled(t, comparisons) if name in OF_VERDICTS else t for t in told]
        apart = agreement.difference(
            agreement.MEASURES[name], values[0], values[1], label, **settings.options
        )
        found.append({"one": one, "other": other, "measure": name, **apart.as_dict()})
    return found


def _told_by(rows: Sequence[Row], name: str) -> dict[str, Row]:
    """Input → what a judge says of it; `name` is a judge, or a judge/strategy."""
    judge, _, strategy = name.partition("/")
    found = {
        row["input"]: row
        for row in rows
        if row["judge"] == judge and row["strategy"] == (strategy or "first")
    }
    if not found:
        known = sorted({f"{row['judge']}/{row['strategy']}" for row in rows})
        raise ValueError(f"differences: no judge {name!r}; measured are {', '.join(known)}")
    return found


def _metrics(tables: Sequence[Row]) -> dict[str, float]:
    """Flat numbers for MLflow."""
    found: dict[str, float] = {}
    for entry in tables:
        at = f"{entry['judge']}/{entry['strategy']}"
        for name, measure in entry["measures"].items():
            if measure["value"] is not None:
                found[f"{name}/{at}"] = measure["value"]
        found[f"parse_failure_rate/{entry['judge']}"] = entry["parse_failure_rate"]
    return found


STAGE = Stage(
    kind="judge_accuracy",
    settings=JudgeAccuracySettings,
    run=run,
    reads={"judgements": Reads("rows", ("id", "judgements", "responses"), many=True)},
    adds=tuple(ROWS.names),
    estimate=estimates.judge_accuracy,
)
