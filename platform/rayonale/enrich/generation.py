"""Settings and the pass that the stages with engines share."""

from __future__ import annotations

import time
from typing import Literal

from pydantic import Field, model_validator

from rayonale import prompts, storage
from rayonale.generate import remote, stream
from rayonale.generate.endpoint import EndpointOptions
from rayonale.generate.settings import EngineOptions, Sampling
from rayonale.generate.stream import PassReport, Task
from rayonale.stages import Settings, StageContext

Split = Literal["train", "validation", "test"]


class ModelSettings(Settings):
    """What every stage that has text generated has.

    Attributes:
        model: generates, when no stage is read in the role `model`.
        sampling: how text is drawn.
        seed: with a row's id and the sample's number it gives that sample's own seed.
        engine: how the model is run.
        endpoint: an OpenAI-compatible endpoint that generates in the model's place.
        unit_rows: rows in one unit of work; a killed run repeats at most the units in flight.
        in_driver: ask the engines from threads of the driver, without Ray Data: for passes of at
            most some thousand rows, where starting its workers takes longer than the work.
    """

    model: str = "tinyworld"
    sampling: Sampling = Sampling()
    seed: int = 0
    engine: EngineOptions = EngineOptions()
    endpoint: EndpointOptions | None = None
    unit_rows: int = Field(default=64, ge=1)
    in_driver: bool = False

    @model_validator(mode="after")
    def _an_endpoint_replaces_the_engine(self) -> ModelSettings:
        ignored = sorted({"model", "engine", "unit_rows"} & self.model_fields_set)
        if self.endpoint is not None and ignored:
            raise ValueError(
                f"endpoint: {', '.join(ignored)} would be ignored with it; leave out one or the "
                "other (an endpoint has its own served_model and unit_rows)"
            )
        return self


class GenerationSettings(ModelSettings):
    """The same for stages that work on rows with splits.

    Attributes:
        splits: splits whose rows are worked on.
    """

    splits: tuple[Split, ...] = Field(default=("train",), min_length=1)


def run_pass(
    context: StageContext, settings: ModelSettings, task: Task, rows: str, part: str = "units"
) -> tuple[PassReport, str]:
    """Run a task over a folder of rows; returns the report and the folder of its units.

    Args:
        part: names that folder, where a stage has several passes.

    Raises:
        ValueError: a model is read where an endpoint generates.
    """
    work = storage.join(context.out, storage.WORK, part)
    if settings.endpoint is not None:
        if context.inputs.get("model"):
            raise ValueError(
                f"stages.{context.name}.reads.model: the endpoint "
                f"{settings.endpoint.served_model!r} generates; expected only one of them"
            )
        report = remote.generate(
            rows,
            work,
            task,
            settings.endpoint,
            identity=context.fingerprint,
            name=context.name,
        )
        return report, work
    model = context.inputs["model"].model if context.inputs.get("model") else settings.model
    started = time.monotonic()
    pool = context.engines.get(model, settings.engine)
    starting = time.monotonic() - started
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
    report.start_seconds = starting
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
