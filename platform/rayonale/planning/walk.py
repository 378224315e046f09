"""Goes through a checked recipe in running order and adds up what its stages will take.

done and unchanged ─► costs nothing, its rows are there to be counted
else               ─► the stage kind's own estimate, from what the stages before will leave
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from rayonale import cluster, execution, stages, storage
from rayonale.planning.flow import Estimate, Flow, not_estimated, of_output
from rayonale.planning.outlook import Outlook, Session
from rayonale.planning.rates import Rates
from rayonale.recipe import PlannedStage, Recipe
from rayonale.stages import StageOutput
from rayonale.train.stage import generating_template

AROUND = ("ray_seconds", "mlflow_seconds")  # once in a run; `stage_seconds` with every stage


@dataclass(frozen=True)
class Line:
    """One stage of a plan.

    Attributes:
        fingerprint, out: of its output, which is known before it is run.
        done: it is there already, and unchanged.
    """

    name: str
    kind: str
    fingerprint: str
    out: str
    done: bool
    estimate: Estimate

    def as_json(self) -> dict[str, Any]:
        """For the file beside the runs."""
        about = {"name": self.name, "kind": self.kind, "fingerprint": self.fingerprint,
                 "out": self.out, "done": self.done}  # fmt: skip
        return {**about, **self.estimate.as_json()}


@dataclass(frozen=True)
class Total:
    """A plan's sums.

    Attributes:
        seconds: of the stages that have a time, and around them; `unknown` names the others.
        gpu_hours: of the GPUs that stages hold while they run, or, with `devices`, of so many
            held from the first to the last.
        cost: GPU-hours at the given price, and what endpoints charge; None without a price.
        bytes: kept; peak_bytes: of the stage that takes most, on top of what is kept before it.
    """

    seconds: float
    around: float
    unknown: tuple[str, ...]
    tokens: Mapping[str, float]
    gpu_hours: float
    cost: float | None
    bytes: float
    peak_bytes: float


@dataclass(frozen=True)
class Plan:
    """A recipe's estimate."""

    recipe: str
    overrides: tuple[str, ...]
    machine: str
    lines: tuple[Line, ...]
    total: Total
    basis: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For the file beside the runs."""
        return {
            "recipe": self.recipe, "overrides": list(self.overrides), "machine": self.machine,
            "basis": list(self.basis), "total": asdict(self.total),
            "stages": [line.as_json() for line in self.lines],
        }  # fmt: skip


def plan(
    recipe: Recipe,
    session: Session,
    *,
    price: float | None = None,
    devices: float | None = None,
) -> Plan:
    """Estimate every stage.

    Args:
        price: of a GPU-hour.
        devices: GPUs that are held all the time; None counts those that each stage uses.

    Raises:
        ValueError: a folder that the recipe reads is not there, or holds an unfinished stage.
    """
    runs = storage.join(storage.absolute(cluster.lasting(recipe.runs)), recipe.name)
    outputs: dict[str, StageOutput] = {}
    flows: dict[str, Flow] = {}
    lines = []
    for planned in recipe.stages.values():
        line = _line(planned, session, runs, outputs, flows)
        lines.append(line)
    around, told = _around(session, sum(not line.done for line in lines))
    total = add_up(lines, around, price=price, devices=devices)
    return Plan(recipe.name, recipe.overrides, session.book.machine, tuple(lines), total, told)


def _line(
    planned: PlannedStage,
    session: Session,
    runs: str,
    outputs: dict[str, StageOutput],
    flows: dict[str, Flow],
) -> Line:
    """One stage; its output and flow are added for the stages that read it."""
    for name in planned.upstream():
        if name not in outputs:
            outputs[name] = execution.open_output(name)
            flows[name] = _external(name, outputs[name])
    inputs = execution.inputs_of(planned, outputs)
    fingerprint = stages.stage_fingerprint(planned.stage, planned.settings, inputs)
    out = storage.join(runs, planned.name, fingerprint[:16])
    manifest_uri = storage.join(out, storage.MANIFEST)
    done = storage.exists(manifest_uri)
    manifest = storage.read_json(manifest_uri) if done else {}
    output = StageOutput(planned.name, out, fingerprint, planned.stage.kind, manifest)
    reads = {
        role: [flows[n] for n in names] if isinstance(names, list) else flows[names]
        for role, names in planned.reads.items()
    }
    outlook = Outlook(planned.name, planned.stage.kind, session, reads,
                      stages.code_version(planned.stage, planned.settings))  # fmt: skip
    estimate = _done(output, outlook) if done else estimate_of(planned, outlook)
    outputs[planned.name], flows[planned.name] = output, estimate.flow
    if planned.stage.own_devices and not done and session.gpus:
        session.engines.clear()  # they are stopped, so that their devices are free
    return Line(planned.name, planned.stage.kind, fingerprint, out, done, estimate)


def estimate_of(planned: PlannedStage, outlook: Outlook) -> Estimate:
    """By the stage kind's own function; the user's seconds stand in where there is none."""
    told = outlook.given("seconds")
    function = planned.stage.estimate
    unknown = unknown_reads(planned, outlook)
    if unknown:
        found = not_estimated(f"what {', '.join(unknown)} will leave is not known")
    elif function is None:
        found = not_estimated(f"stages of kind {planned.stage.kind} have no estimate; give "
                              f"--assume {planned.name}.seconds")  # fmt: skip
    else:
        found = function(outlook, planned.settings)
    if told is not None:
        found = replace(found, parts={"given": told}, missing="", basis=(f"{told:g} s given",))
    bad = [name for name, value in found.parts.items() if not math.isfinite(value) or value < 0]
    assert not bad, f"{planned.name}: {bad} of {found.parts}"
    return found


def unknown_reads(planned: PlannedStage, outlook: Outlook) -> list[str]:
    """Stages that are read, and of which it is not known what they will leave."""
    found = []
    for role, names in planned.reads.items():
        flows = outlook.reads[role]
        for name, flow in zip(
            names if isinstance(names, list) else [names],
            flows if isinstance(flows, list) else [flows],
            strict=True,
        ):
            if not flow.known and planned.stage.reads[role].what != "any":
                found.append(name)
    return found


def _external(name: str, output: StageOutput) -> Flow:
    """A folder that is read: rows, or a model."""
    if storage.exists(storage.join(output.model, "config.json")):
        return Flow(model=output.model)
    return of_output(output)


def _done(output: StageOutput, outlook: Outlook) -> Estimate:
    """A finished stage takes nothing; what it left is read."""
    if storage.exists(storage.join(output.model, "config.json")):
        flow = Flow(model=output.model)
    else:
        flow = replace(of_output(output), template=generating_template(output.manifest))
        if not flow.rows and output.manifest["rows_out"]:  # raw files: tinyworld's
            flow = _raw(output, outlook)
    return Estimate(rows_in=output.manifest["rows_in"], rows_out=output.manifest["rows_out"],
                    flow=flow, bytes=0.0, basis=("done, unchanged",))  # fmt: skip


def _raw(output: StageOutput, outlook: Outlook) -> Flow:
    """Of a stage that leaves raw files: drawn again, which takes no time."""
    stage = stages.get(output.kind)
    if stage.estimate is None:
        return Flow()
    settings = stage.settings.model_validate(output.manifest["settings"])
    found: Estimate = stage.estimate(outlook, settings)
    return found.flow


def _around(session: Session, stages_run: int) -> tuple[float, tuple[str, ...]]:
    """What lies around the stages that run: Ray's and MLflow's start, a run for each stage."""
    if not stages_run:
        return 0.0, ()
    probes = session.probes
    found: Rates | None = session.book.probed(
        {"component": "session"}, probes.session if probes is not None else None
    )
    if found is None:
        return 0.0, ("the start of Ray and MLflow is not in it: it was not measured here",)
    once = sum(found[name] for name in AROUND)
    return once + stages_run * found["stage_seconds"], (f"start of Ray and MLflow {found.source}",)


def add_up(
    lines: Iterable[Line],
    around: float,
    *,
    price: float | None = None,
    devices: float | None = None,
) -> Total:
    """Sums over the stages that are to be run."""
    todo = [line.estimate for line in lines if not line.done]
    unknown = tuple(line.name for line in lines if not line.done and line.estimate.missing)
    tokens: dict[str, float] = {}
    kept, peak, busy, money = 0.0, 0.0, 0.0, 0.0
    seconds = around
    for each in todo:
        seconds += each.seconds or 0.0
        busy += (each.seconds or 0.0) * each.gpus
        money += each.money
        for name, count in each.tokens.items():
            tokens[name] = tokens.get(name, 0.0) + count
        peak = max(peak, kept + (each.peak_bytes or each.bytes or 0.0))
        kept += each.bytes or 0.0
    hours = (busy if devices is None else seconds * devices) / 3600
    cost = None if price is None and not money else hours * (price or 0.0) + money
    return Total(seconds, around, unknown, tokens, hours, cost, kept, peak)


def cores() -> int:
    """Of this machine."""
    return os.cpu_count() or 1
