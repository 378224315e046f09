"""Settings and the pass that the stages with engines share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rayonale import prompts, storage
from rayonale.generate import stream
from rayonale.generate.settings import EngineOptions, Sampling
from rayonale.generate.stream import PassReport, Task
from rayonale.stages import Settings, StageContext

Split = Literal["train", "validation", "test"]


class GenerationSettings(Settings):
    """What every stage with engines has.

    Attributes:
        model: generates, when no stage is read in the role `model`.
        splits: splits whose rows are worked on.
        sampling: how text is drawn.
        seed: with a row's id and the sample's number it gives that sample's own seed.
        engine: how the model is run.
        unit_rows: rows in one unit of work; a killed run repeats at most the units in flight.
        in_driver: ask the engines from threads of the driver, without Ray Data: for passes of at
            most some thousand rows, where starting its workers takes longer than the work.
    """

    model: str = "tinyworld"
    splits: tuple[Split, ...] = Field(default=("train",), min_length=1)
    sampling: Sampling = Sampling()
    seed: int = 0
    engine: EngineOptions = EngineOptions()
    unit_rows: int = Field(default=64, ge=1)
    in_driver: bool = False


def run_pass(
    context: StageContext, settings: GenerationSettings, task: Task, rows: str
) -> tuple[PassReport, str]:
    """Run a task over a folder of rows; returns the report and the folder of its units."""
    work = storage.join(context.out, storage.WORK, "units")
    model = context.inputs["model"].model if context.inputs.get("model") else settings.model
    pool = context.engines.get(model, settings.engine)
    report = stream.generate(
        rows,
        work,
        task,
        pool,
        identity=context.fingerprint,
        name=context.name,
        unit_rows=settings.unit_rows,
        in_driver=settings.in_driver,
    )
    return report, work


def greedy_repeats(n: int, sampling: Sampling) -> list[str]:
    """A message when several samples of one prompt could only be equal."""
    if n > 1 and sampling.temperature == 0:
        return [
            f"n: {n} samples at temperature 0 are all the same; expected n = 1 or a temperature"
        ]
    return []


def check_template(template: str, known: frozenset[str]) -> list[str]:
    """Messages about a template that is not there or asks for what it will not be given."""
    try:
        unknown = sorted(prompts.variables(template) - known)
    except ValueError as error:
        return [f"template: {error}"]
    if unknown:
        return [
            f"template: {template!r} uses {', '.join(unknown)}; "
            f"given are {', '.join(sorted(known))}"
        ]
    return []
