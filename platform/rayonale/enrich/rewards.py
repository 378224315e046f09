"""Stage `score`: rewards for any column of responses, stored beside them.

    rows ─┬─ oracles (vLLM, or Transformers) ─ one pass a member ─┐
          ├─ a rubric of evaluate/scorers.py ─────────────────────┼─► reward_<column>
          └─ β(log π − log π_ref) of a policy (implicit.py) ──────┘   rewards_<column>, scorer

    {"chosen": [assistant], "rejected": […]}
        →  {"reward_chosen": 1.25, "rewards_chosen": [1.5, 1.0], …, "reward_scorer": "model=3f…"}

`reward_<column>` is the mean over an ensemble's members, `rewards_<column>` has each one's. What
trains on rewards reads these columns only: no oracle is in memory then.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rayonale import models, storage
from rayonale.data.left_out import counts
from rayonale.enrich import implicit, reward_estimates
from rayonale.enrich.generation import Split
from rayonale.enrich.reward_task import RewardTask, RubricSource, shapes_of
from rayonale.evaluate import scorers
from rayonale.generate import finish, stream
from rayonale.generate.rewards import source_of
from rayonale.generate.settings import EngineOptions
from rayonale.generate.stream import PassReport
from rayonale.records import REJECT
from rayonale.stages import Reads, Settings, Stage, StageContext, StageResult

Row = dict[str, Any]

DEFAULT_COLUMNS = ("chosen", "rejected", "response", "responses")


class Oracle(Settings):
    """One reward model: a folder of ours, a sequence classifier's folder, or a hub name.

    Attributes:
        label: which of a classifier's several labels is the reward (an attribute, say).
    """

    model: str
    label: int | None = Field(default=None, ge=0)


class ByOracles(Settings):
    """Reward models; several are an ensemble.

    Attributes:
        oracles: the members, when no stages are read in the role `oracles`.
        backend: `auto` asks vLLM, and Transformers where vLLM does not know the architecture.
        engine: how they are run; `dtype`, `max_model_len`, `max_num_seqs`, `replicas` and
            `chat_template` hold for both backends.
    """

    kind: Literal["oracles"] = "oracles"
    oracles: tuple[Oracle, ...] = ()
    backend: Literal["auto", "vllm", "transformers"] = "auto"
    engine: EngineOptions = EngineOptions()


class ByRubric(Settings):
    """An exact scorer by its name in `evaluate/scorers.py`."""

    kind: Literal["rubric"]
    name: str = "tinyworld_rubric"


class ScoreSettings(Settings):
    """Settings of the `score` stage.

    Attributes:
        scorer: who gives rewards: `{kind: oracles}`, `{kind: rubric}` or `{kind: implicit}`.
        columns: columns of responses; None takes those of `chosen`, `rejected`, `response` and
            `responses` that the rows have.
        prefix: of the columns that are added.
        splits: splits whose rows are scored and kept; None takes all.
        unit_rows: rows in one unit of work; a killed run repeats at most the units in flight.
    """

    scorer: Annotated[ByOracles | ByRubric | implicit.ByPolicy, Field(discriminator="kind")] = (
        ByOracles()
    )
    columns: tuple[str, ...] | None = Field(default=None, min_length=1)
    prefix: str = Field(default="reward", pattern=r"^[a-z][a-z_]*$")
    splits: tuple[Split, ...] | None = Field(default=None, min_length=1)
    unit_rows: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _columns_differ(self) -> ScoreSettings:
        if self.columns and len(set(self.columns)) != len(self.columns):
            raise ValueError(f"columns repeat: {list(self.columns)}")
        return self


def run(context: StageContext, settings: ScoreSettings) -> StageResult:
    """Score responses by reward models, a rubric or a policy.

    Raises:
        ValueError: a column that is not there or holds no responses, or no scorer.
    """
    rows = wanted_rows(context, settings)
    columns = settings.columns or tuple(
        name for name in DEFAULT_COLUMNS if name in storage.schema(rows).names
    )
    shapes = shapes_of(storage.schema(rows), columns, f"stages.{context.name}.columns")
    if isinstance(settings.scorer, implicit.ByPolicy):
        return implicit.run(context, settings.scorer, rows, columns, settings.prefix)
    begun = time.monotonic()
    labels: tuple[int | None, ...] = ()
    if isinstance(settings.scorer, ByRubric):
        sources = [RubricSource(settings.scorer.name)]
        told = f"rubric={settings.scorer.name}"
    else:
        members = members_of(context, settings.scorer)
        sources = [pool(context, settings.scorer, member) for member in members]
        told = ";".join(f"model={models.fingerprint(member)[:16]}" for member in members)
        labels = tuple(oracle.label for oracle in settings.scorer.oracles)
        told += "".join(f";label={label}" for label in labels if label is not None)
    started = time.monotonic() - begun
    task = RewardTask(shapes, settings.prefix, len(sources), told, labels=labels)
    reports, rejects = [], []
    for number, source in enumerate(sources):
        out = context.out if number == len(sources) - 1 else _member_folder(context, number)
        report, work = _pass(context, settings, task.of_member(number), rows, source=source)
        reports.append(report)
        rows_out, _ = finish.split(work, out, task.without, task.gathered(number))
        rejects += list(storage.read_rows(storage.join(out, storage.REJECTS)))
        rows = storage.join(out, storage.ROWS)
    found = _result(
        context, rows_out=rows_out, rejects=rejects, reports=reports, told=told, columns=columns
    )
    found.metrics["engine_start_seconds"] = round(started, 3)
    return found


def wanted_rows(context: StageContext, settings: ScoreSettings) -> str:
    """The rows of the wanted splits, as a folder."""
    rows = context.rows()
    if settings.splits is None:
        return rows
    folder = storage.join(context.out, storage.WORK, "selected")
    storage.remove(folder)  # a killed attempt may have left half of it; it is cheap and exact
    schema = storage.schema(rows).remove_metadata()
    chosen = (row for row in storage.read_rows(rows) if row["split"] in settings.splits)
    if storage.write_rows(folder, chosen, schema) == 0:
        raise ValueError(
            f"stages.{context.name}: no rows of splits {', '.join(settings.splits)} in {rows}"
        )
    return folder


def members_of(context: StageContext, settings: ByOracles) -> list[str]:
    """Models that give the rewards, resolved.

    Raises:
        ValueError: none is given, given in two ways, or a model gives no rewards.
    """
    read = context.inputs.get("oracles") or []
    if bool(read) == bool(settings.oracles):
        raise ValueError(
            f"stages.{context.name}: expected the reward models either as stages read in the role "
            "`oracles` or in scorer.oracles"
        )
    named = [output.model for output in read] or [oracle.model for oracle in settings.oracles]
    return [models.resolve(name) for name in named]


def pool(context: StageContext, settings: ByOracles, member: str) -> Any:
    """Engines that give a member's rewards."""
    source, vllm = source_of(member)
    if settings.backend == "vllm" and not vllm:
        raise ValueError(
            f"{member}: there is only a reward head beside a causal LM, which vLLM cannot be "
            "given; expected backend: transformers, or training with reward_head.classifier: true"
        )
    if settings.backend == "transformers" or not vllm:
        return context.engines.get(source, settings.engine, "transformers")
    return context.engines.rewards(source, settings.engine, fall_back=settings.backend == "auto")


def _member_folder(context: StageContext, number: int) -> str:
    return storage.join(context.out, storage.WORK, f"member-{number}")


def _pass(
    context: StageContext,
    settings: ScoreSettings,
    task: RewardTask,
    rows: str,
    *,
    source: Any,
) -> tuple[PassReport, str]:
    """One member's pass over the rows; resumes by itself."""
    work = storage.join(context.out, storage.WORK, f"units-{task.member}")
    options: Row = {
        "identity": context.fingerprint,
        "name": context.name,
        "unit_rows": settings.unit_rows,
    }
    if isinstance(source, RubricSource):
        return stream.generate_here(rows, work, task, source, **options), work
    return stream.generate(rows, work, task, source, **options), work


def _result(
    context: StageContext,
    *,
    rows_out: int,
    rejects: list[Row],
    reports: list[PassReport],
    told: str,
    columns: tuple[str, ...],
) -> StageResult:
    """Numbers of all passes; rejects of earlier members join the last one's."""
    place = storage.join(context.out, storage.REJECTS)
    storage.remove(place)
    storage.write_rows(place, iter(rejects), REJECT)
    tokens = sum(report.prompt_tokens for report in reports)
    seconds = max(sum(report.engine_seconds for report in reports), 1e-9)
    return StageResult(
        rows_in=rows_out + len(rejects),
        rows_out=rows_out,
        rejects=counts(rejects),
        metrics={
            "rows_resumed": float(sum(report.rows_resumed for report in reports)),
            "scored_tokens": float(tokens),
            "scoring_seconds": round(sum(report.seconds for report in reports), 3),
            "tokens_per_second": round(tokens / seconds, 1),
            "members": float(len(reports)),
        },
        details={"scorer": told, "columns": list(columns)},
    )


def _sources(settings: ScoreSettings) -> list[str]:
    if isinstance(settings.scorer, ByRubric):
        return [f"module:{scorers.module_of(settings.scorer.name)}"]
    return []


def _validate(settings: ScoreSettings) -> list[str]:
    if isinstance(settings.scorer, ByRubric) and settings.scorer.name not in scorers.SCORERS:
        choices = ", ".join(sorted(scorers.SCORERS))
        return [f"scorer.name: no scorer {settings.scorer.name!r}; choices: {choices}"]
    return []


STAGE = Stage(
    kind="score",
    settings=ScoreSettings,
    run=run,
    reads={
        "rows": Reads("rows", columns=("id", "prompt")),
        "oracles": Reads("model", many=True, optional=True),
        "policy": Reads("model", optional=True),
        "reference": Reads("model", optional=True),
    },
    adds=(
        *(f"{name}_{column}" for name in ("reward", "rewards") for column in DEFAULT_COLUMNS),
        "reward_scorer",
    ),
    sources=_sources,
    validate=_validate,
    estimate=reward_estimates.score,
)
