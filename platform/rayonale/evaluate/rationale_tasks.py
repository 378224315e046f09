"""Stage `rationale_tasks`: two judges' rationales of the same score, side by side and blind.

judge a ─┐ same input, same score   ┌─► tasks.json   for Label Studio, judges not named
judge b ─┴──────────────────────────┼─► config.xml   its labelling interface
                                    └─► rows/        which side is whose
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import xxhash
from pydantic import Field

from rayonale import storage
from rayonale.data.left_out import counts, reject
from rayonale.enrich.transcript import prompt_text, response_text
from rayonale.evaluate.label_studio import labelling_config
from rayonale.records import REJECT, RejectKind
from rayonale.stages import Reads, Settings, Stage, StageContext, StageResult

Row = dict[str, Any]

ROWS = pa.schema(
    [
        ("id", pa.string()),  # of the task
        ("input", pa.string()),
        ("judge_1", pa.string()),  # whose rationale is shown first
        ("judge_2", pa.string()),
        ("score", pa.float64()),
        ("rationale_1", pa.string()),
        ("rationale_2", pa.string()),
    ]
)


class RationaleTaskSettings(Settings):
    """Settings of `rationale_tasks`.

    Attributes:
        limit: at most so many tasks, drawn with `seed` (which also decides the sides).
        seed: of the drawing.
    """

    limit: int | None = Field(default=None, ge=1)
    seed: int = 0


def task_of(a: Row, b: Row, names: tuple[str, str], seed: int) -> Row | str:
    """A task, or the reason why there is none: `unreadable`, `scores_differ`, `same_rationale`.

    Args:
        a, b: the same input with the judgements of either judge; the first of each counts.
    """
    ours, theirs = a["judgements"][0], b["judgements"][0]
    if ours["verdict"] is None or theirs["verdict"] is None:
        return "unreadable"
    if ours["verdict"] != theirs["verdict"]:
        return "scores_differ"
    texts = [ours["rationale"].strip(), theirs["rationale"].strip()]
    if texts[0] == texts[1]:
        return "same_rationale"
    key = xxhash.xxh3_128_hexdigest(f"{seed}:{a['id']}:{names[0]}:{names[1]}".encode())
    order = (0, 1) if int(key, 16) % 2 else (1, 0)
    first, second = order
    return {
        "id": key,
        "input": a["id"],
        "judge_1": names[first],
        "judge_2": names[second],
        "score": ours["verdict"],
        "rationale_1": texts[first],
        "rationale_2": texts[second],
    }


def shown(task: Row, row: Row) -> Row:
    """What Label Studio is given of a task: nothing that tells the judges apart."""
    return {
        "data": {
            "task": task["id"],
            "conversation": prompt_text(row["prompt"]),
            "response": "\n\n".join(response_text(each) for each in row["responses"]),
            "rubric": row.get("rubric") or "–",
            "score": f"{task['score']:g}",
            "rationale_1": task["rationale_1"],
            "rationale_2": task["rationale_2"],
        }
    }


def run(context: StageContext, settings: RationaleTaskSettings) -> StageResult:
    """Write tasks for people.

    Raises:
        ValueError: the judges share no input, or no task can be made.
    """
    a, b = context.inputs["a"], context.inputs["b"]
    theirs = {row["id"]: row for row in storage.read_rows(b.rows, ["id", "judgements"])}
    rejects: list[Any] = []
    tasks: list[tuple[Row, Row]] = []
    read = 0
    for row in storage.read_rows(a.rows):
        if row["id"] not in theirs:
            continue
        read += 1
        made = task_of(row, theirs[row["id"]], (a.name, b.name), settings.seed)
        if isinstance(made, str):
            why = f"{a.name} and {b.name} on this input"
            rejects.append(reject(row, RejectKind.FILTERED, made, why))
            continue
        tasks.append((made, shown(made, row)))
    tasks.sort(key=lambda pair: pair[0]["id"])  # a drawn order: ids are hashes
    over = tasks[settings.limit :] if settings.limit else []
    rejects += [
        reject(made, RejectKind.LIMIT, "limit", "more tasks than wanted") for made, _ in over
    ]
    tasks = tasks[: settings.limit]
    if not tasks:
        told = json.dumps(counts(rejects))
        raise ValueError(f"stages.{context.name}: no task of {read} shared inputs: {told}")
    text = json.dumps([given for _, given in tasks], ensure_ascii=False, indent=1)
    storage.write_bytes(storage.join(context.out, "tasks.json"), text.encode())
    storage.write_bytes(storage.join(context.out, "config.xml"), labelling_config().encode())

    def rows() -> Iterator[Row]:
        return (made for made, _ in tasks)

    storage.write_rows(storage.join(context.out, storage.ROWS), rows(), ROWS)
    storage.write_rows(storage.join(context.out, storage.REJECTS), iter(rejects), REJECT)
    return StageResult(
        rows_in=read,
        rows_out=len(tasks),
        rejects=counts(rejects),
        details={"tasks": storage.join(context.out, "tasks.json"),
                 "config": storage.join(context.out, "config.xml")},
    )  # fmt: skip


STAGE = Stage(
    kind="rationale_tasks",
    settings=RationaleTaskSettings,
    run=run,
    reads={
        "a": Reads("rows", ("id", "prompt", "responses", "judgements")),
        "b": Reads("rows", ("id", "judgements")),
    },
    adds=tuple(ROWS.names),
)
