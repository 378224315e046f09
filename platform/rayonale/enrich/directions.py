"""Stage `directions`: the better response by weights that are told in the prompt (DPA).

    x: A (order 5, tone 1), B (order 2, tone 5)
      θ = −20°: weights order 94, tone −34  ─►  "… order 94, tone -34" x → A
      θ = +45°: weights order 71, tone 71   ─►  "… order 71, tone 71"  x → B

Directional preference alignment (Wang et al. 2024, arXiv 2402.18571): a preference is a direction
v = (cos θ, sin θ) in the plane of two rewards, drawn for each prompt; of the sampled responses the
one with the greatest v·r is learnt by likelihood (`conditioned_sft`), with v told in the prompt. A
pair has two samples, so this is the method's first iteration, on the pair's own responses.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa
from pydantic import model_validator

from rayonale import prompts, storage
from rayonale.data.left_out import LeftOut, counts, reject
from rayonale.enrich import estimates, goal_prompt
from rayonale.enrich.goal_prompt import GoalPrompt
from rayonale.enrich.goal_scores import Source
from rayonale.enrich.relabelling import SIDES
from rayonale.records import LABELLED_ROW, REJECT, RejectKind
from rayonale.stages import Reads, Settings, Stage, StageContext, StageResult

Row = dict[str, Any]

WEIGHT = 100  # of a direction's unit length, so that weights are whole numbers


class DirectionSettings(Settings):
    """Settings of `directions`.

    Attributes:
        attributes: two; a policy that is not asked for a direction is asked for the first alone.
        attributes_from: see `relabel`.
        degrees: smallest and largest angle θ from the first attribute's axis.
        seed: of the angles; a row's depends on it and on the row's id alone.
        template: of the sentence, with the variable `goals` (attribute → weight).
        place: of the sentence; see `relabel`.
        model, chat_template: whose chat template decides the place.
    """

    attributes: tuple[str, str]
    attributes_from: Literal["metadata", "columns"] = "metadata"
    degrees: tuple[float, float] = (-45.0, 45.0)
    seed: int = 0
    template: str = "goal_weights"
    place: Literal["auto", "system", "user"] = "auto"
    model: str = "tinyworld"
    chat_template: str | None = None

    @model_validator(mode="after")
    def _in_order(self) -> DirectionSettings:
        if not -180 <= self.degrees[0] < self.degrees[1] <= 180:
            raise ValueError(f"degrees: found {self.degrees}, expected -180 ≤ smallest < largest")
        return self


def direction(settings: DirectionSettings, key: str) -> dict[str, float]:
    """Weights of a row, by attribute.

    Args:
        key: the row's id.
    """
    angle = math.radians(random.Random(f"{settings.seed} {key}").uniform(*settings.degrees))
    first, second = settings.attributes
    return {first: round(WEIGHT * math.cos(angle)), second: round(WEIGHT * math.sin(angle))}


def learnt(row: Row, settings: DirectionSettings, told: GoalPrompt) -> Row:
    """The labelled row of a pair.

    Raises:
        LeftOut: a score is missing, or both responses are as good by these weights.
    """
    source = Source("", settings.attributes, settings.attributes_from == "metadata")
    weights = direction(settings, row["id"])
    value = {}
    for side in SIDES:
        scores = source.scores(row, side)
        value[side] = sum(weights[name] * scores[name] for name in weights) / WEIGHT
    if value["chosen"] == value["rejected"]:
        raise LeftOut(RejectKind.FILTERED, "equal_scores", f"both are worth {value['chosen']:g}")
    side = max(SIDES, key=value.__getitem__)
    return {
        **{name: row.get(name) for name in LABELLED_ROW.names},
        "prompt": told.put(row["prompt"], weights),
        "response": row[side],
        "label": True,
        "score": value[side],
        "goal": weights[settings.attributes[0]],
    }


def run(context: StageContext, settings: DirectionSettings) -> StageResult:
    """Draw a direction for each pair and keep the response that is better by it."""
    read, place = context.inputs.get("model"), settings.place
    if place == "auto":
        model = read.model if read is not None else settings.model
        place = goal_prompt.place_of(model, settings.chat_template)
    first, second = settings.attributes
    told = GoalPrompt(
        template=settings.template, text=prompts.source(settings.template), place=place,
        low=-WEIGHT, high=WEIGHT, attributes=settings.attributes, digits=0,
        best={first: float(WEIGHT), second: 0.0},
    )  # fmt: skip
    rejects: list[Any] = []
    seen = 0

    def rows() -> Iterator[Row]:
        nonlocal seen
        for row in storage.read_rows(context.rows()):
            seen += 1
            try:
                yield learnt(row, settings, told)
            except LeftOut as left_out:
                rejects.append(reject(row, left_out.kind, left_out.reason, str(left_out)))

    schema = pa.schema([*LABELLED_ROW, ("goal", pa.float64())])
    count = storage.write_rows(storage.join(context.out, storage.ROWS), rows(), schema)
    storage.write_rows(storage.join(context.out, storage.REJECTS), iter(rejects), REJECT)
    return StageResult(
        rows_in=seen,
        rows_out=count,
        rejects=counts(rejects),
        details={goal_prompt.DETAIL: told.model_dump(mode="json")},
        prompts=[settings.template],
    )


STAGE = Stage(
    kind="directions",
    settings=DirectionSettings,
    run=run,
    sources=lambda settings: [f"prompt:{settings.template}"],
    reads={
        "rows": Reads("rows", columns=("id", "split", "prompt", "chosen", "rejected")),
        "model": Reads("model", optional=True),
    },
    adds=(*LABELLED_ROW.names, "goal"),
    estimate=estimates.directions,
)
