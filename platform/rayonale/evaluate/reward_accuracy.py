"""Stage `reward_accuracy`: how well stored rewards order pairs, and how sure they are of it.

    scored pairs (reward_chosen, reward_rejected, …) ─► gap of every pair ─► accuracy, calibration,
                                                   by score gap, confidence, length, category

RewardBench's number for files with categories: accuracy in each category, and their plain mean.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from rayonale import storage
from rayonale.data.left_out import counts, reject
from rayonale.enrich.generation import Split
from rayonale.evaluate import calibration, estimates
from rayonale.records import REJECT, RejectKind
from rayonale.stages import Reads, Settings, Stage, StageContext, StageResult

Row = dict[str, Any]

ROWS = pa.schema(
    [
        ("id", pa.string()),
        ("gap", pa.float64()),  # reward of the better response − of the other
        ("score_gap", pa.float64()),  # of the stored scores, ≥ 0; null without scores
        ("confidence", pa.float64()),
        ("words", pa.int64()),  # of the better response − of the other
        ("category", pa.string()),
    ]
)


class RewardAccuracySettings(Settings):
    """Settings of the `reward_accuracy` stage.

    Attributes:
        prefix: of the columns with rewards: `<prefix>_chosen`, `<prefix>_rejected`.
        truth: the better response is the one that was chosen (`label`), or the one with the
            higher score in `score_chosen` and `score_rejected` (`scores`; equal ones are left out
            and counted).
        category: what names a pair's category: `source` (the raw file's name), or a key of the
            raw record that is in `metadata`; None has no categories.
        splits: splits to measure on; None takes all.
        gap_edges: limits between groups of score gaps.
        length_edges: limits between groups of length differences, in words.
        level: confidence level of intervals.
        seed: of the bootstrap.
    """

    prefix: str = "reward"
    truth: Literal["label", "scores"] = "label"
    category: str | None = None
    splits: tuple[Split, ...] | None = ("test",)
    gap_edges: tuple[float, ...] = Field(default=(0.5, 1, 2, 4), min_length=1)
    length_edges: tuple[float, ...] = Field(default=(-20, -5, 0, 5, 20), min_length=1)
    level: float = Field(default=0.95, gt=0, lt=1)
    seed: int = 0

    @model_validator(mode="after")
    def _edges_rise(self) -> RewardAccuracySettings:
        for name in ("gap_edges", "length_edges"):
            edges = getattr(self, name)
            if list(edges) != sorted(set(edges)):
                raise ValueError(f"{name}: found {list(edges)}, expected rising numbers")
        return self


def run(context: StageContext, settings: RewardAccuracySettings) -> StageResult:
    """Measure rewards that a `score` stage stored.

    Raises:
        ValueError: the rows have no such rewards (or scores), or none of the splits.
    """
    columns = require(context, settings)
    rejects: list[Any] = []
    rows = list(_pairs(context.rows(), columns, settings, rejects))
    if not rows:
        raise ValueError(
            f"stages.{context.name}: no pair of {context.rows()} can be measured; splits "
            f"{settings.splits}, left out {dict(Counter(row['reason'] for row in rejects))}"
        )
    storage.write_rows(storage.join(context.out, storage.ROWS), iter(rows), ROWS)
    storage.write_rows(storage.join(context.out, storage.REJECTS), iter(rejects), REJECT)
    details = measured(rows, settings)
    details["label"] = _label(context)
    metrics = {"accuracy": details["accuracy"]["value"], "ece": details["ece"]}
    metrics |= {f"accuracy/{e['group']}": e["value"] for e in details["by_category"]}
    if details["by_category"]:
        metrics["accuracy/mean_of_categories"] = details["mean_of_categories"]
    return StageResult(
        rows_in=len(rows) + len(rejects),
        rows_out=len(rows),
        rejects=counts(rejects),
        metrics=metrics,
        details=details,
    )


def require(context: StageContext, settings: RewardAccuracySettings) -> list[str]:
    """Columns to read; refuses rows that lack any."""
    present = storage.schema(context.rows()).names
    needed = [f"{settings.prefix}_{side}" for side in ("chosen", "rejected")]
    if settings.truth == "scores":
        needed += ["score_chosen", "score_rejected"]
    if missing := [name for name in needed if name not in present]:
        raise ValueError(
            f"stages.{context.name}: {context.rows()} lacks {', '.join(missing)} (a score stage "
            f"adds rewards); found {', '.join(present)}"
        )
    wanted = ["id", "split", "source", "line", "chosen", "rejected", "confidence", "metadata"]
    wanted += ["score_chosen", "score_rejected", *needed]
    return [name for name in dict.fromkeys(wanted) if name in present]


def _pairs(
    rows: str, columns: list[str], settings: RewardAccuracySettings, rejects: list[Any]
) -> Iterator[Row]:
    for row in storage.read_rows(rows, columns):
        if settings.splits is not None and row["split"] not in settings.splits:
            continue
        apart = score_gap(row)
        if settings.truth == "scores" and not apart:
            why = "no scores" if apart is None else f"both scores are {row['score_chosen']}"
            rejects.append(reject(row, RejectKind.FILTERED, "no_true_order", why))
            continue
        # The better response is the chosen one, or the one with the higher score.
        sign = -1 if settings.truth == "scores" and apart is not None and apart < 0 else 1
        texts = [row[side][-1]["content"] for side in ("chosen", "rejected")]
        words = len(texts[0].split()) - len(texts[1].split())
        reward = [row[f"{settings.prefix}_{side}"] for side in ("chosen", "rejected")]
        yield {
            "id": row["id"],
            "gap": sign * (reward[0] - reward[1]),
            "score_gap": None if apart is None else abs(apart),
            "confidence": row.get("confidence"),
            "words": sign * words,
            "category": category_of(row, settings.category),
        }


def score_gap(row: Row) -> float | None:
    """Score of the chosen response − of the rejected one; None where one is not known."""
    both = row.get("score_chosen"), row.get("score_rejected")
    return None if None in both else float(both[0]) - float(both[1])  # type: ignore[arg-type]


def category_of(row: Row, category: str | None) -> str | None:
    """Name of a pair's category."""
    if category is None:
        return None
    if category == "source":
        return str(row["source"]).rstrip("/").rpartition("/")[2].partition(".")[0]
    value = json.loads(row.get("metadata") or "{}").get(category)
    return None if value is None else str(value)


def measured(rows: Sequence[Row], settings: RewardAccuracySettings) -> dict[str, Any]:
    """Everything that is reported of measured pairs."""
    gaps = [row["gap"] for row in rows]
    options: dict[str, Any] = {"level": settings.level, "seed": settings.seed}

    def by(name: str, edges: Sequence[float]) -> list[dict[str, Any]]:
        keys = [calibration.between(row[name], edges) for row in rows]
        return calibration.grouped(gaps, keys, order=calibration.place_among(edges), **options)

    confidences = [None if row["confidence"] is None else round(row["confidence"]) for row in rows]
    categories = calibration.grouped(gaps, [row["category"] for row in rows], **options)
    return {
        "pairs": len(rows),
        "truth": settings.truth,
        "accuracy": calibration.accuracy(gaps, **options).as_dict(),
        "ece": calibration.calibration_error(gaps),
        "reliability": calibration.reliability(gaps),
        "by_score_gap": by("score_gap", settings.gap_edges),
        "by_confidence": calibration.grouped(gaps, confidences, order=int, **options),
        "by_length": by("words", settings.length_edges),
        "by_category": categories,
        "mean_of_categories": (
            sum(each["value"] for each in categories) / len(categories) if categories else None
        ),
    }


def _label(context: StageContext) -> str:
    """The oracles' names, where the rows come straight from a score stage."""
    read = context.inputs["rows"]
    oracles = (read.manifest.get("inputs") or {}).get("oracles") or []
    names = [str(each["name"]) for each in oracles]
    return ", ".join(names) or str(read.name)


STAGE = Stage(
    kind="reward_accuracy",
    settings=RewardAccuracySettings,
    run=run,
    reads={"rows": Reads("rows", ("id", "split", "chosen", "rejected"))},
    adds=tuple(ROWS.names),
    estimate=estimates.reward_accuracy,
)
