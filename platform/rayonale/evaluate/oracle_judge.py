"""A reward model as the judge of pairs: the response with the higher reward wins.

    pairs ─ distinct (prompt, response) as rows ─ the `score` stage's pass ─► rewards ─► outcomes

The pass is resumable, and every response is scored once however many comparisons it is part of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pyarrow as pa
import xxhash
from pydantic import Field

from rayonale import models, storage
from rayonale.enrich import rewards
from rayonale.enrich.reward_task import RewardTask
from rayonale.evaluate.statistics import outcome
from rayonale.evaluate.summary import reject
from rayonale.generate import finish, stream
from rayonale.generate.settings import EngineOptions
from rayonale.records import MESSAGES, RejectKind
from rayonale.stages import Settings, StageContext

Row = dict[str, Any]

_TEXTS = pa.schema([("id", pa.string()), ("prompt", MESSAGES), ("response", pa.string())])


class OracleJudge(Settings):
    """Compares by a reward model.

    Attributes:
        name: what metrics and the report call it.
        model: the reward model, when no stage is read in the role `oracle`.
        backend, engine: as in the `score` stage.
        tie_margin: rewards that differ by no more than this are a tie.
    """

    kind: Literal["oracle"]
    name: str = Field("oracle", min_length=1)
    model: str | None = None
    backend: Literal["auto", "vllm", "transformers"] = "auto"
    engine: EngineOptions = EngineOptions()
    tie_margin: float = Field(0.0, ge=0)


def judge_by_reward(
    context: StageContext, items: Sequence[Row], judge: OracleJudge
) -> tuple[list[Row], list[Row], Row]:
    """(rows, rejects, facts) of a reward model over pairs of responses.

    Args:
        items: columns of `comparisons.ROWS` that describe a pair.

    Raises:
        ValueError: no reward model is given, or it is given in two ways.
    """
    member = _model(context, judge)
    work = storage.join(context.out, storage.WORK, "oracles", judge.name)
    texts = {
        _key(item["prompt"], item[f"response_{side}"]): {
            "prompt": item["prompt"],
            "response": item[f"response_{side}"],
        }
        for item in items
        for side in ("a", "b")
    }
    folder, units = storage.join(work, "texts"), storage.join(work, "units")
    storage.remove(folder)  # cheap, and the same again after a kill
    storage.write_rows(folder, ({"id": key, **text} for key, text in texts.items()), _TEXTS)
    scorer = rewards.ByOracles(backend=judge.backend, engine=judge.engine)
    report = stream.generate(
        folder,
        units,
        RewardTask({"response": "one"}, "reward", 1, "oracle"),
        rewards.pool(context, scorer, member),
        identity=context.fingerprint,
        name=f"{context.name}: {judge.name}",
    )
    known, refused = {}, {}
    for row in finish.finished(units):
        status = row[stream.STATUS_COLUMN]
        if status is None:
            known[row["id"]] = row["reward_response"]
        else:
            refused[row["id"]] = status
    facts = {"model": models.fingerprint(member), **report.metrics()}
    return *_compared(items, judge, known, refused), facts


def _model(context: StageContext, judge: OracleJudge) -> str:
    read = context.inputs.get("oracle")
    if (read is None) == (judge.model is None):
        raise ValueError(
            f"stages.{context.name}: judge {judge.name!r} needs a reward model, either as a stage "
            "read in the role `oracle` or as its `model`"
        )
    return models.resolve(judge.model if read is None else read.model)  # type: ignore[arg-type]


def _key(prompt: Any, response: str) -> str:
    text = "\0".join([*(f"{m['role']}\0{m['content']}" for m in prompt), response])
    return xxhash.xxh3_128_hexdigest(text.encode())


def _compared(
    items: Sequence[Row], judge: OracleJudge, known: dict[str, float], refused: dict[str, Row]
) -> tuple[list[Row], list[Row]]:
    """Outcomes of pairs whose responses both have a reward; the others are rejects."""
    rows, rejects = [], []
    for item in items:
        row = {
            **item,
            "id": f"{item['comparison']}/{judge.name}/{item['prompt_id']}/{item['sample']}/0",
            "judge": judge.name,
            "judge_kind": "oracle",
            "repeat": 0,
        }
        keys = [_key(item["prompt"], item[f"response_{side}"]) for side in ("a", "b")]
        if missing := [refused[key] for key in keys if key in refused]:
            why = missing[0]
            rejects.append(reject(row, RejectKind(why["kind"]), why["reason"], why["detail"]))
            continue
        a, b = (known[key] for key in keys)
        apart = abs(a - b) > judge.tie_margin
        row |= {"score_a": a, "score_b": b, "attributes_a": [], "attributes_b": []}
        rows.append(row | {"outcome": outcome(a, b) if apart else 0.5})
    return rows, rejects
