"""Stage `rationale_votes`: what people chose in Label Studio, against who wrote what.

rationale_tasks rows (who is who) + Label Studio's JSON export ─► a vote an annotator and task
    ─► win rate with ties as half, its interval, Fleiss' and Cohen's κ, reasons
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from rayonale import storage
from rayonale.data.left_out import counts
from rayonale.evaluate import agreement
from rayonale.evaluate.label_studio import read_choices
from rayonale.evaluate.statistics import win_rate
from rayonale.lineage import fingerprints
from rayonale.records import REJECT, RejectKind
from rayonale.stages import Reads, Settings, Stage, StageContext, StageResult

Row = dict[str, Any]

ROWS = pa.schema(
    [
        ("id", pa.string()),  # <task>/<annotator>
        ("task", pa.string()),
        ("annotator", pa.string()),
        ("preferred", pa.string()),  # a judge's name; null for a tie
        ("outcome", pa.float64()),  # 1: the first judge (in the order of names) won, ½ a tie
        ("reasons", pa.list_(pa.string())),
        ("comment", pa.string()),
    ]
)


class RationaleVoteSettings(Settings):
    """Settings of `rationale_votes`.

    Attributes:
        export: Label Studio's export, format JSON.
        of: the judge whose win rate is told; None takes the first in the order of names.
        level, seed: of the interval.
    """

    export: str = Field(min_length=1)
    of: str | None = None
    level: float = Field(default=0.95, gt=0, lt=1)
    seed: int = 0


def run(context: StageContext, settings: RationaleVoteSettings) -> StageResult:
    """Count the votes.

    Raises:
        ValueError: an unknown judge, no export of tasks made here, or no vote.
    """
    tasks = {row["id"]: row for row in storage.read_rows(context.rows())}
    judges = sorted({row[side] for row in tasks.values() for side in ("judge_1", "judge_2")})
    of = settings.of or judges[0]
    if of not in judges:
        raise ValueError(f"stages.{context.name}.of: no judge {of!r}; tasks are of {judges}")
    exported = storage.read_json(settings.export)
    if not isinstance(exported, list):
        raise ValueError(f"{settings.export}: expected a list of tasks (export format JSON)")
    votes: dict[str, Row] = {}
    rejects: list[Row] = []
    for choice in read_choices(exported, settings.export):
        name = f"{choice.task}/{choice.annotator}"
        task = tasks.get(choice.task)
        problem = choice.problem or ("unknown_task" if task is None else None)
        if problem is None and name in votes:
            problem = "second_vote"
        if problem is not None or task is None:
            rejects.append(_reject(name, str(problem), settings.export))
            continue
        preferred = {1.0: task["judge_1"], 2.0: task["judge_2"]}.get(choice.value or 0.0)
        votes[name] = {
            "id": name,
            "task": choice.task,
            "annotator": choice.annotator,
            "preferred": preferred,
            "outcome": 0.5 if preferred is None else float(preferred == of),
            "reasons": list(choice.reasons),
            "comment": choice.comment,
        }
    if not votes:
        raise ValueError(f"{settings.export}: no vote; left out: {json.dumps(counts(rejects))}")
    rows = list(votes.values())
    storage.write_rows(storage.join(context.out, storage.ROWS), iter(rows), ROWS)
    storage.write_rows(storage.join(context.out, storage.REJECTS), iter(rejects), REJECT)
    details = measured(rows, settings.level, settings.seed)
    return StageResult(
        rows_in=len(rows) + len(rejects),
        rows_out=len(rows),
        rejects=counts(rejects),
        metrics={"win_rate": details["win_rate"]["value"]},
        details={**details, "of": of, "against": [name for name in judges if name != of]},
    )


def measured(votes: Sequence[Row], level: float, seed: int) -> Row:
    """Win rate over tasks, agreement of annotators, and how often each reason was ticked."""
    outcomes = [vote["outcome"] for vote in votes]
    rate = win_rate(outcomes, [vote["task"] for vote in votes], seed=seed, level=level)
    by_annotator: dict[str, dict[str, float]] = {}
    for vote in votes:
        by_annotator.setdefault(vote["annotator"], {})[vote["task"]] = vote["outcome"]
    shared = set.intersection(*(set(told) for told in by_annotator.values()))
    table = [[told[task] for told in by_annotator.values()] for task in sorted(shared)]
    fleiss = agreement.fleiss_kappa(table) if shared and len(by_annotator) > 1 else None
    return {
        "win_rate": rate.as_dict(),
        "wins": outcomes.count(1.0),
        "ties": outcomes.count(0.5),
        "losses": outcomes.count(0.0),
        "annotators": len(by_annotator),
        "tasks_of_all": len(shared),
        "fleiss_kappa": fleiss,
        "cohen_kappa": [_pair(one, other, by_annotator) for one, other in
                        combinations(sorted(by_annotator), 2)],
        "reasons": dict(Counter(reason for vote in votes for reason in vote["reasons"])),
    }  # fmt: skip


def _pair(one: str, other: str, by_annotator: dict[str, dict[str, float]]) -> Row:
    shared = sorted(by_annotator[one].keys() & by_annotator[other].keys())
    told = [np.array([by_annotator[name][task] for task in shared]) for name in (one, other)]
    return {
        "annotators": [one, other],
        "tasks": len(shared),
        "kappa": agreement.kappa(told[0], told[1]),
        "agreed": agreement.accuracy(told[0], told[1]),
    }


def _reject(name: str, reason: str, export: str) -> Row:
    return {
        "id": name,
        "kind": RejectKind.INVALID.value,
        "reason": reason,
        "detail": f"{export}: {name}",
        "source": export,
        "line": None,
        "row": name,
    }


def _external(settings: RationaleVoteSettings) -> dict[str, str]:
    return {"export": fingerprints.of(storage.read_json(settings.export))}


STAGE = Stage(
    kind="rationale_votes",
    settings=RationaleVoteSettings,
    run=run,
    reads={"rows": Reads("rows", ("id", "judge_1", "judge_2"))},
    adds=tuple(ROWS.names),
    external_inputs=_external,
)
