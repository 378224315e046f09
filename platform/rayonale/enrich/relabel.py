"""Stage `relabel`: pairs conditioned on the scores of their responses (reward-augmented data).

    x: A (9) ≻ B (8)  ─┬─►  "aim at 9" x: A ≻ B
                       └─►  "aim at 8" x: B ≻ A

With R(x, y, g) = −(g − r(x, y))² each response is the better one for its own score as the goal
(arXiv 2410.08067, section 4). What the label said plays no part, so inverted pairs (chosen scored
lower) are counted and used; equal ones would be two contradicting rows for one goal and are left
out, as are missing scores and scores off the scale. The transform itself is in `relabelling.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rayonale import prompts, storage
from rayonale.enrich import estimates, goal_prompt
from rayonale.enrich.goal_prompt import GoalPrompt
from rayonale.enrich.goal_scores import Scale, ScoreMap, look, told_scale
from rayonale.enrich.relabelling import ADDS, Relabeller, RelabelSettings
from rayonale.records import REJECT
from rayonale.stages import Reads, Stage, StageContext, StageResult
from rayonale.train.trees import row_type_of

Row = dict[str, Any]


def run(context: StageContext, settings: RelabelSettings) -> StageResult:
    """Relabel all pairs.

    Raises:
        ValueError: no pairs, no columns with scores, or columns that hold for the old prompt or
            the old order only.
    """
    schema = storage.schema(context.rows()).remove_metadata()
    require_columns(context, settings, schema.names)
    relabeller = prepare(context, settings)
    columns = pa.schema([*(f for f in schema if f.name not in ADDS.names), *ADDS])
    counted: dict[str, dict[str, int]] = {}
    rejects = storage.join(context.out, storage.REJECTS)
    storage.remove(rejects)
    with storage.ParquetWriter(rejects, REJECT) as left_out:

        def rows() -> Iterator[Row]:
            for row in storage.read_rows(context.rows()):
                made, refused = relabeller.rows(row)
                yield from made
                for one in refused:
                    left_out.write(one)
                    kind = counted.setdefault(one["kind"], {})
                    kind[one["reason"]] = kind.get(one["reason"], 0) + 1

        written = storage.write_rows(storage.join(context.out, storage.ROWS), rows(), columns)
    if left_out.rows == 0:
        storage.write_rows(rejects, iter(()), REJECT)
    return StageResult(
        rows_in=relabeller.counts["pairs"],
        rows_out=written,
        rejects=counted,
        metrics={name.replace(" ", "_"): float(n) for name, n in relabeller.counts.items()},
        details={
            goal_prompt.DETAIL: relabeller.told.model_dump(mode="json"),
            "account": dict(relabeller.counts),
            "goals": dict(sorted(relabeller.goals.items(), key=lambda item: -item[1])[:100]),
        },
        prompts=[settings.template_name()],
    )


def prepare(context: StageContext, settings: RelabelSettings) -> Relabeller:
    """What has to be known of all rows first: the scale of their scores, how many there are."""
    source, wanted = settings.source(), settings.wanted()
    given = None if settings.from_scale is None else Scale(*settings.from_scale)
    per_prompt, seen = settings.per == "prompt", {}
    if settings.map == "raw" or (settings.map in ("linear", "rank") and given is None):
        columns = source.columns() + (["prompt"] if per_prompt else [])
        if per_prompt and "scores" in storage.schema(context.rows()).names:
            columns.append("scores")
        seen = look(storage.read_rows(context.rows(), columns), source, per_prompt)
        if settings.map == "raw":
            wanted = told_scale(seen, source.names)
    name, read = settings.template_name(), context.inputs.get("model")
    place = settings.place
    if place == "auto":
        model = read.model if read is not None else settings.model
        place = goal_prompt.place_of(model, settings.chat_template)
    told = GoalPrompt(
        template=name, text=prompts.source(name), place=place, low=wanted.low, high=wanted.high,
        attributes=settings.attributes, digits=settings.digits,
    )  # fmt: skip
    return Relabeller(
        settings, told, ScoreMap(settings.map, wanted, given, seen),
        _first(context.rows(), settings.share),
    )  # fmt: skip


def _first(rows: str, share: float) -> dict[str, int]:
    """How many training rows are taken; nothing is said of splits of which all are."""
    if share == 1:
        return {}
    split = storage.dataset(rows).to_table(columns=["split"]).column("split")
    return {"train": round(share * pc.sum(pc.equal(split, "train")).as_py())}


def require_columns(context: StageContext, settings: RelabelSettings, names: list[str]) -> None:
    """Refuse rows that cannot be relabelled; see `run`."""
    at = f"stages.{context.name}"
    if row_type_of(names) != "pair":
        raise ValueError(f"{at}: goals are told of pairs, found {row_type_of(names)} rows")
    if missing := [name for name in settings.source().columns() if name not in names]:
        raise ValueError(f"{at}: no column {', '.join(missing)}; found: {', '.join(names)}")
    stale = [
        n for n in names if n.startswith("ref_") or n in ("rationales", "reference_fingerprint")
    ]
    if stale:
        raise ValueError(
            f"{at}: {', '.join(stale)} would no longer hold once the prompt has a goal; expected "
            "these stages after this one"
        )


def _validate(settings: RelabelSettings) -> list[str]:
    try:
        text = prompts.source(settings.template_name())
    except ValueError as error:
        return [f"template: {error}"]
    wanted, used = "goals" if settings.attributes else "goal", prompts.variables_of(text)
    unknown = sorted(used - {wanted, "low", "high"})
    if wanted not in used or unknown:
        return [f"template: uses {', '.join(sorted(used))}; expected {wanted}, and low and high"]
    return []


STAGE = Stage(
    kind="relabel",
    settings=RelabelSettings,
    run=run,
    sources=lambda settings: [f"prompt:{settings.template_name()}"],
    reads={
        "rows": Reads("rows", columns=("id", "split", "prompt", "chosen", "rejected")),
        "model": Reads("model", optional=True),
    },
    adds=tuple(ADDS.names),
    validate=_validate,
    estimate=estimates.relabel,
)
