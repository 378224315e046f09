"""Running a checked recipe: stages in the order of their dependencies, unchanged ones reused.

Stages run one by one; with `parallel: 2` in the recipe, two that work in processes of their own
(training) run at once, which a sweep's cells do not mind.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rayonale import cluster, stages, storage
from rayonale.lineage import fingerprints, tracking
from rayonale.recipe import PlannedStage, Recipe, near
from rayonale.stages import StageOutput


def run(
    recipe: Recipe, only: str | None = None, force: Iterable[str] = (), num_cpus: int | None = None
) -> dict[str, StageOutput]:
    """Run a recipe's stages in order, reusing what is unchanged.

    Args:
        only: a stage's name: it and what it needs are run, nothing else.
        force: names of stages to run again although they are unchanged.

    Returns:
        name → output of every stage that was needed.
    """
    from rayonale.generate.pool import Engines

    wanted = _needed(recipe, only)
    force = set(force)
    for name in wanted:  # in running order: what reads a forced stage is stale too
        if force & set(recipe.stages[name].upstream()):
            force.add(name)
    cluster.connect(num_cpus)
    runs = cluster.lasting(recipe.runs)
    with (
        tracking.Tracker(
            recipe.name,
            runs,
            description=recipe.description,
            source=recipe.source,
            overrides=recipe.overrides,
        ) as tracker,
        Engines() as engines,
    ):

        def run_one(planned: PlannedStage, done: Mapping[str, StageOutput]) -> StageOutput:
            return stages.run_stage(
                planned.stage,
                planned.settings,
                name=planned.name,
                inputs=inputs_of(planned, done),
                folder=storage.join(runs, recipe.name),
                engines=engines,
                tracker=tracker,
                force=planned.name in force,
            )

        found = in_order([recipe.stages[name] for name in wanted], run_one, recipe.parallel)
    return {name: found[name] for name in wanted}


def in_order(
    wanted: Iterable[PlannedStage],
    run_one: Callable[[PlannedStage, Mapping[str, StageOutput]], StageOutput],
    parallel: int = 1,
) -> dict[str, StageOutput]:
    """Run stages, each after what it reads; several at once where all of them can.

    After a failure nothing new is started; what runs is waited for, so that it is not lost.

    Args:
        wanted: in running order.
        run_one: called with a stage and the outputs so far.
        parallel: how many may run at once.

    Raises:
        Exception: the first failure.
    """
    waiting = list(wanted)
    names = {stage.name for stage in waiting}
    done: dict[str, StageOutput] = {}
    running: dict[str, PlannedStage] = {}
    ended: queue.Queue[tuple[str, StageOutput | BaseException]] = queue.Queue()
    failed: BaseException | None = None

    def work(stage: PlannedStage, known: dict[str, StageOutput]) -> None:
        try:
            ended.put((stage.name, run_one(stage, known)))
        except BaseException as error:
            ended.put((stage.name, error))

    while (waiting and failed is None) or running:
        stage = None if failed else _next(waiting, running, done, names, parallel)
        if stage is not None and (parallel == 1 or not stage.stage.beside):
            waiting.remove(stage)
            done[stage.name] = run_one(stage, done)
        elif stage is not None:
            waiting.remove(stage)
            running[stage.name] = stage
            # A daemon: whoever interrupts the run does not wait for a training to end.
            threading.Thread(target=work, args=(stage, dict(done)), daemon=True).start()
        else:
            name, output = ended.get()
            del running[name]
            if isinstance(output, BaseException):
                failed = failed or output
            else:
                done[name] = output
    if failed is not None:
        raise failed
    return done


def _next(
    waiting: list[PlannedStage],
    running: Mapping[str, PlannedStage],
    done: Mapping[str, StageOutput],
    names: set[str],
    parallel: int,
) -> PlannedStage | None:
    """The stage to start now; None when those that run have to be waited for."""
    if len(running) >= parallel:
        return None
    for stage in waiting:
        ready = all(name in done for name in stage.upstream() if name in names)
        if ready and (not running or stage.stage.beside):
            return stage
    return None


def _needed(recipe: Recipe, only: str | None) -> list[str]:
    if only is None:
        return list(recipe.stages)
    if only not in recipe.stages:
        raise ValueError(
            f"no stage {only!r} in {recipe.source}{near(only, list(recipe.stages))}; "
            f"stages: {', '.join(recipe.stages)}"
        )
    needed, stack = set(), [only]
    while stack:
        name = stack.pop()
        if name in recipe.stages and name not in needed:
            needed.add(name)
            stack.extend(recipe.stages[name].upstream())
    return [name for name in recipe.stages if name in needed]


def inputs_of(planned: PlannedStage, outputs: Mapping[str, StageOutput]) -> dict[str, Any]:
    """What a stage reads, by role: outputs of stages, or folders."""

    def output(name: str) -> StageOutput:
        return outputs[name] if name in outputs else open_output(name)

    return {
        role: [output(n) for n in names] if isinstance(names, list) else output(names)
        for role, names in planned.reads.items()
    }


def open_output(uri: str) -> StageOutput:
    """A folder as something to read: a finished stage, a folder of Parquet rows, or a model.

    The `rows` or `model` folder of a finished stage stands for the stage, so its ancestry is kept.

    Raises:
        ValueError: there is no such folder, or it is of a stage that has not finished.
    """
    uri = uri.rstrip("/")
    folder, _, last = uri.rpartition("/")
    for stage_uri in [uri, *([folder] if last in (storage.ROWS, storage.MODEL) else [])]:
        manifest_uri = storage.join(stage_uri, storage.MANIFEST)
        if storage.exists(manifest_uri):
            manifest = storage.read_json(manifest_uri)
            return StageOutput(
                manifest["name"], stage_uri, manifest["fingerprint"], manifest["kind"], manifest
            )
        if storage.exists(storage.join(stage_uri, storage.WORK)):
            raise ValueError(
                f"{uri}: its stage has not finished (there is {storage.WORK}/ and no "
                f"{storage.MANIFEST}); run the stage's command again first"
            )
    if not storage.exists(uri):
        raise ValueError(
            f"{uri}: no such folder; expected a stage's folder, a folder of Parquet "
            "files, or a Hugging Face model folder"
        )
    return StageOutput(last, uri, fingerprints.of_folder(uri))
