"""The `goal_control` stage: does a policy give the score that it is asked for?

    samples of ra asked for 10, 8, 6, 4 ─┬─ scores ─► curve: mean score of each goal, with intervals
    samples of dpo asked for the same    ┘             rank correlation of goal and score

With goals of attributes each is steered alone: the curve of an attribute is made of the samples
that ask for the best of all others. The unit of every interval is the prompt; all goals of a policy
are compared on the prompts that were answered for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy import stats

from rayonale import storage
from rayonale.enrich.transcript import prompt_text
from rayonale.evaluate import estimates, scorers
from rayonale.evaluate.statistics import by_prompt, mean_interval
from rayonale.evaluate.summary import reject
from rayonale.records import REJECT, RejectKind
from rayonale.stages import Reads, Settings, Stage, StageContext, StageOutput, StageResult

Row = dict[str, Any]
Floats = NDArray[np.float64]
OVERALL = "overall"
_RESAMPLES = 1_000

ROWS = pa.schema(
    [
        ("id", pa.string()),  # <samples>/<prompt id>/<sample>
        ("policy", pa.string()),
        ("samples", pa.string()),  # the stage
        ("goal", pa.map_(pa.string(), pa.float64())),  # overall or attributes → goal; null: none
        ("prompt_id", pa.string()),
        ("sample", pa.int64()),
        ("scores", pa.map_(pa.string(), pa.float64())),  # overall and attributes
    ]
)


class GoalControlSettings(Settings):
    """Settings of the `goal_control` stage.

    Attributes:
        scorer: gives the true scores: a name of `evaluate/scorers.py`.
        reward: in its place, the prefix of a column `<reward>_responses` that a score stage added.
        level: confidence level of intervals.
        seed: of the bootstrap.
    """

    scorer: str | None = None
    reward: str | None = None
    level: float = Field(0.95, gt=0, lt=1)
    seed: int = 0

    @model_validator(mode="after")
    def _one_of_them(self) -> GoalControlSettings:
        if (self.scorer is None) == (self.reward is None):
            raise ValueError("scorer and reward: give one of them")
        return self


@dataclass(frozen=True)
class Asked:
    """The samples of one policy for one goal.

    Attributes:
        goal: name (`overall`, or attributes) → goal; None when it was not asked.
        scores: name → prompt id → mean score.
    """

    policy: str
    stage: str
    goal: Mapping[str, float] | None
    scores: Mapping[str, Mapping[str, float]]


def run(context: StageContext, settings: GoalControlSettings) -> StageResult:
    """Score all samples and draw a curve for each policy.

    Raises:
        ValueError: no scores, or no policy that was asked for two goals.
    """
    asked, rows, rejects = [], [], []
    for output in context.inputs["samples"]:
        scored, refused = score(output, settings)
        rows += scored
        rejects += refused
        asked.append(gathered(output, scored))
    storage.write_rows(storage.join(context.out, storage.ROWS), iter(rows), ROWS)
    storage.write_rows(storage.join(context.out, storage.REJECTS), iter(rejects), REJECT)
    curves = curves_of(asked, settings)
    if not curves:
        told = "; ".join(f"{one.stage}: {one.policy} asked for {one.goal}" for one in asked)
        raise ValueError(
            f"stages.{context.name}: no policy was asked for two goals; expected samples of one "
            f"model with another `goal` each; found {told}"
        )
    rejected = {"invalid": {"not_scorable": len(rejects)}} if rejects else {}
    return StageResult(
        rows_in=len(rows) + len(rejects),
        rows_out=len(rows),
        rejects=rejected,
        metrics={
            f"rank_correlation/{curve['policy']}/{curve['name']}": float(curve["rank"]["value"])
            for curve in curves
        },
        details={"curves": curves, "table": table(asked, settings)},
    )


def score(output: StageOutput, settings: GoalControlSettings) -> tuple[list[Row], list[Row]]:
    """Rows and rejects of one samples stage."""
    policy, goal = policy_of(output), goal_of(output)
    rows, rejects = [], []
    for row in storage.read_rows(output.rows):
        for sample, response in enumerate(row["responses"]):
            key = f"{output.name}/{row['id']}/{sample}"
            try:
                found = _scores(row, sample, response, settings)
            except ValueError as error:
                about = {"id": key, "response": response}
                rejects.append(reject(about, RejectKind.INVALID, "not_scorable", str(error)))
                continue
            rows.append(
                {
                    "id": key, "policy": policy, "samples": output.name,
                    "goal": None if goal is None else list(goal.items()),
                    "prompt_id": row["id"], "sample": sample, "scores": list(found.items()),
                }
            )  # fmt: skip
    return rows, rejects


def _scores(
    row: Row, sample: int, response: str, settings: GoalControlSettings
) -> dict[str, float]:
    if settings.scorer is not None:
        found = scorers.get(settings.scorer)(prompt_text(row["prompt"]), response)
        return {OVERALL: found.overall, **found.attributes}
    column = f"{settings.reward}_responses"
    if column not in row:
        raise ValueError(f"no column {column!r}: a score stage adds it")
    return {OVERALL: float(row[column][sample])}


def policy_of(output: StageOutput) -> str:
    """Name of the policy that was sampled."""
    read = (output.manifest.get("inputs") or {}).get("model")
    if isinstance(read, dict):
        return str(read["name"])
    return str(output.manifest.get("settings", {}).get("model", output.name))


def goal_of(output: StageOutput) -> dict[str, float] | None:
    """What it was asked for; None: nothing."""
    goal = output.manifest.get("details", {}).get("goal")
    if goal is None:
        return None
    if isinstance(goal, dict):
        return {name: float(value) for name, value in goal.items()}
    return {OVERALL: float(goal)}


def gathered(output: StageOutput, rows: Sequence[Row]) -> Asked:
    """Mean score of each prompt, by name."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row["scores"]:
            values.setdefault(name, []).append(value)
    prompts = [row["prompt_id"] for row in rows]
    scores = {n: {str(k): v for k, v in by_prompt(each, prompts).items()}
              for n, each in values.items()}  # fmt: skip
    return Asked(policy_of(output), output.name, goal_of(output), scores)


def curves_of(asked: Sequence[Asked], settings: GoalControlSettings) -> list[Row]:
    """A curve for each policy and each name that it was asked for several goals of."""
    found = []
    for policy in dict.fromkeys(one.policy for one in asked):
        own = [one for one in asked if one.policy == policy and one.goal is not None]
        names = list(dict.fromkeys(name for one in own for name in one.goal or {}))
        best = {name: max((one.goal or {}).get(name, -np.inf) for one in own) for name in names}
        for name in names:
            alone = {
                one.goal[name]: one
                for one in own
                if one.goal is not None and name in one.goal and name in one.scores
                and all(one.goal[other] == best[other] for other in one.goal if other != name)
            }  # fmt: skip
            if len(alone) > 1:
                goals = sorted(alone)
                curve = curve_of(goals, [alone[goal].scores[name] for goal in goals], settings)
                found.append({"policy": policy, "name": name, **curve})
    return found


def curve_of(
    goals: Sequence[float], scores: Sequence[Mapping[str, float]], settings: GoalControlSettings
) -> Row:
    """Means, steps and rank correlation over the prompts that all goals have in common.

    Args:
        goals: [G] ascending.
        scores: [G] prompt id → score.

    Raises:
        ValueError: no prompt in common.
    """
    keys = sorted(set.intersection(*(set(one) for one in scores)))
    if not keys:
        raise ValueError("no prompt was answered for every goal; sample the same rows for each")
    matrix = np.array([[one[key] for one in scores] for key in keys], np.float64)  # [P, G]
    options = {"seed": settings.seed, "level": settings.level}

    def interval(values: Floats) -> Row:
        return mean_interval(values, **options).as_dict()  # type: ignore[arg-type]

    steps = [
        {"from": goals[at], "to": goals[at + 1], **interval(matrix[:, at + 1] - matrix[:, at])}
        for at in range(len(goals) - 1)
    ]
    whole = interval(matrix[:, -1] - matrix[:, 0])
    return {
        "points": [{"goal": goal, **interval(matrix[:, at])} for at, goal in enumerate(goals)],
        "steps": steps,
        "whole": whole,
        "verdict": verdict(steps, whole),
        "rank": rank_correlation(goals, matrix, settings),
    }


def verdict(steps: Sequence[Row], whole: Row) -> str:
    """In words, by the intervals alone: `rises` when each step does."""
    if all(step["low"] > 0 for step in steps):
        return "rises at every step"
    if whole["low"] > 0:
        rising = all(step["value"] >= 0 for step in steps)
        return "rises, not every step surely" if rising else "rises, not at every step"
    return "falls" if whole["high"] < 0 else "flat"


def rank_correlation(goals: Sequence[float], matrix: Floats, settings: GoalControlSettings) -> Row:
    """Spearman's ρ of goal and score over all answers, with a bootstrap over prompts.

    Args:
        matrix: [P, G] scores.

    Returns:
        value, low, high; 0 where all scores are one.
    """
    asked = np.asarray(goals, np.float64)

    def rho(rows: Floats) -> float:
        flat = rows.ravel()
        if np.ptp(flat) == 0:
            return 0.0
        return float(stats.spearmanr(np.tile(asked, len(rows)), flat).statistic)

    rng = np.random.default_rng(settings.seed)
    drawn = [rho(matrix[rng.integers(0, len(matrix), len(matrix))]) for _ in range(_RESAMPLES)]
    tail = (1 - settings.level) / 2
    low, high = (float(q) for q in np.quantile(drawn, [tail, 1 - tail]))
    return {"value": rho(matrix), "low": low, "high": high}


def table(asked: Sequence[Asked], settings: GoalControlSettings) -> list[Row]:
    """Mean of everything that is scored, for every goal asked for."""
    return [
        {
            "policy": one.policy, "samples": one.stage, "goal": one.goal and dict(one.goal),
            "name": name,
            **mean_interval(
                list(scores.values()), seed=settings.seed, level=settings.level
            ).as_dict(),
        }
        for one in asked
        for name, scores in one.scores.items()
    ]  # fmt: skip


def _validate(settings: GoalControlSettings) -> list[str]:
    if settings.scorer is not None and settings.scorer not in scorers.SCORERS:
        choices = ", ".join(sorted(scorers.SCORERS))
        return [f"scorer: no scorer {settings.scorer!r}; choices: {choices}"]
    return []


STAGE = Stage(
    kind="goal_control",
    settings=GoalControlSettings,
    run=run,
    reads={"samples": Reads("rows", columns=("id", "prompt", "responses"), many=True)},
    adds=tuple(ROWS.names),
    sources=lambda settings: (
        [f"module:{scorers.module_of(settings.scorer)}"] if settings.scorer else []
    ),
    validate=_validate,
    estimate=estimates.goal_control,
)
