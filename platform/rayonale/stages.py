"""Stages: the steps of a recipe, what each reads and adds, and how one is run.

A stage is a plain function of typed settings and of the outputs that it reads. This file holds
the contract, the registry (kind → where the stage is defined) and `run_stage`, which wraps the
function with everything that all stages share: the fingerprint that decides whether it has to
run, the folder it writes to, the manifest, the limit on bad rows, and the MLflow run.

    recipe.yaml ─ recipe.py ─► run_stage(kind, settings, inputs) ─► <out>/<fingerprint>/
                                 │ fingerprint seen and done? → reuse
                                 │ else stage.run(context, settings) → StageResult
                                 └ rows/ rejects/ model/ manifest.json, one MLflow run
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from rayonale import models, storage
from rayonale.lineage import fingerprints, tracking
from rayonale.planning import ledger, machine

if TYPE_CHECKING:
    from rayonale.planning.flow import Estimate
    from rayonale.planning.outlook import Outlook

log = logging.getLogger("rayonale")

# kind → "module:attribute" of its Stage. Adding a stage is one file and one line here.
REGISTRY: dict[str, str] = {
    "tinyworld_pairs": "rayonale.tinyworld.stage:STAGE",
    "tinyworld_lists": "rayonale.tinyworld.lists:STAGE",
    "ingest": "rayonale.data.ingest:STAGE",
    "reshape": "rayonale.data.reshape:STAGE",
    "pair_samples": "rayonale.data.pair_samples:STAGE",
    "ambiguity": "rayonale.data.ambiguity:STAGE",
    "goals": "rayonale.enrich.goals:STAGE",
    "relabel": "rayonale.enrich.relabel:STAGE",
    "directions": "rayonale.enrich.directions:STAGE",
    "rationales": "rayonale.enrich.rationales:STAGE",
    "grade_rationales": "rayonale.enrich.grades:STAGE",
    "tinyworld_judgements": "rayonale.tinyworld.judged:STAGE",
    "tinyworld_naive": "rayonale.tinyworld.naive:STAGE",
    "judge": "rayonale.enrich.judgements:STAGE",
    "judgement_examples": "rayonale.enrich.judgement_examples:STAGE",
    "judge_judgements": "rayonale.enrich.meta_judgements:STAGE",
    "curate": "rayonale.enrich.curated:STAGE",
    "merge": "rayonale.train.merge:STAGE",
    "rationale_tasks": "rayonale.evaluate.rationale_tasks:STAGE",
    "rationale_votes": "rayonale.evaluate.rationale_votes:STAGE",
    "judge_accuracy": "rayonale.evaluate.judge_accuracy:STAGE",
    "permute_rationales": "rayonale.enrich.permuted:STAGE",
    "reference_logprobs": "rayonale.enrich.reference:STAGE",
    "train": "rayonale.train.stage:STAGE",
    "score": "rayonale.enrich.rewards:STAGE",
    "samples": "rayonale.enrich.samples:STAGE",
    "reference_texts": "rayonale.enrich.reference_texts:STAGE",
    "win_rates": "rayonale.evaluate.win_rates:STAGE",
    "margins": "rayonale.evaluate.margins:STAGE",
    "goal_control": "rayonale.evaluate.goal_control:STAGE",
    "instructions": "rayonale.evaluate.instructions:STAGE",
    "answers": "rayonale.evaluate.answers:STAGE",
    "mt_bench": "rayonale.evaluate.mt_bench_stage:STAGE",
    "arena_hard": "rayonale.evaluate.arena_hard_stage:STAGE",
    "reward_accuracy": "rayonale.evaluate.reward_accuracy:STAGE",
    "alpaca_eval": "rayonale.evaluate.leaderboard:STAGE",
    "harness": "rayonale.evaluate.harness:STAGE",
    "study": "rayonale.evaluate.study:STAGE",
    "report": "rayonale.report.stage:STAGE",
}


class Settings(BaseModel):
    """Base of every stage's settings: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


@dataclass(frozen=True)
class Reads:
    """One role in which a stage reads another stage's output.

    Attributes:
        what: `rows` (a folder of Parquet rows), `model` (a Hugging Face folder) or `any`.
        columns: columns that the rows must have.
        many: the role takes a list of stages.
        optional: the role may be left out.
    """

    what: Literal["rows", "model", "any"]
    columns: tuple[str, ...] = ()
    many: bool = False
    optional: bool = False


@dataclass(frozen=True)
class StageOutput:
    """A finished stage (or a plain folder or model that the user points at)."""

    name: str
    uri: str
    fingerprint: str
    kind: str = "external"
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> str:
        """Folder of Parquet rows."""
        return self.uri if self.kind == "external" else storage.join(self.uri, storage.ROWS)

    @property
    def rejects(self) -> str:
        """Folder of Parquet rejects."""
        return storage.join(self.uri, storage.REJECTS)

    @property
    def model(self) -> str:
        """Hugging Face folder."""
        return self.uri if self.kind == "external" else storage.join(self.uri, storage.MODEL)


@dataclass
class StageContext:
    """What a stage gets beside its settings.

    Attributes:
        name: the stage's name in the recipe.
        out: URI of its folder, which may hold `work/` of an attempt that was killed.
        inputs: the outputs that it reads, by role (a list where the role takes many).
        engines: shared vLLM engines (`rayonale.generate.pool.Engines`), kept between stages.
        fingerprint: of this run of the stage.
        code_version: hash of the stage's source modules.
        run: the stage's MLflow run; `run.log_metrics({...}, step=)` may be called while running.
    """

    name: str
    out: str
    inputs: dict[str, Any]
    engines: Any
    fingerprint: str
    code_version: str
    run: tracking.Run

    def rows(self, role: str = "rows") -> str:
        """Folder of the rows read in `role`."""
        output: StageOutput = self.inputs[role]
        return output.rows


@dataclass
class StageResult:
    """What a stage reports. Counts are rows; rejects are counted by kind and reason.

    Attributes:
        rows_in, rows_out: rows read, rows in `rows/`.
        rejects: {kind: {reason: count}} with kind in invalid | filtered | limit.
        metrics: numbers for MLflow, the manifest and the report (throughput, accuracies …).
        details: anything JSON-able that the report shows (tables, curves).
        prompts: names of prompt templates that were used (their fingerprints are recorded).
        raw_inputs: [{"uri":, "bytes":, "sha256":}] files from outside that were read.
    """

    rows_in: int = 0
    rows_out: int = 0
    rejects: dict[str, dict[str, int]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    prompts: list[str] = field(default_factory=list)
    raw_inputs: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Stage:
    """A stage kind.

    Attributes:
        kind: its name in recipes.
        settings: pydantic model of its settings (subclass of `Settings`).
        run: the function that does the work.
        reads: role → what it reads.
        adds: columns that it adds to the rows.
        sources: function of the settings that gives further modules and prompt templates that
            the result depends on (a loss chosen by name, a template): entries are
            "module:rayonale.losses.dpo" or "prompt:rationale_general".
        external_inputs: function of the settings that gives fingerprints of things outside the
            recipe (raw files): their change makes the stage run again.
        own_devices: it computes on GPUs itself: engines that hold any are stopped before it runs.
        beside: it works in processes of its own, so that several may run at once.
        validate: further checks of settings against roles that need no data; returns messages.
        gives: what it leaves behind: `rows`, `model`, or both.
        estimate: what a run of it will take (`rayonale.planning`): (outlook, settings) → Estimate;
            None where that is not known.
    """

    kind: str
    settings: type[Settings]
    run: Callable[[StageContext, Any], StageResult]
    reads: Mapping[str, Reads] = field(default_factory=dict)
    adds: tuple[str, ...] = ()
    gives: tuple[str, ...] = ("rows",)
    own_devices: bool = False
    beside: bool = False
    sources: Callable[[Any], list[str]] = lambda settings: []
    external_inputs: Callable[[Any], Mapping[str, str]] = lambda settings: {}
    validate: Callable[[Any], list[str]] = lambda settings: []
    estimate: Callable[[Outlook, Any], Estimate] | None = None


def get(kind: str) -> Stage:
    """The stage of a kind.

    Raises:
        ValueError: unknown kind; the message lists the choices.
    """
    if kind not in REGISTRY:
        raise ValueError(f"unknown stage kind {kind!r}; choices: {', '.join(sorted(REGISTRY))}")
    module, _, attribute = REGISTRY[kind].partition(":")
    stage: Stage = getattr(import_module(module), attribute)
    return stage


def stage_fingerprint(stage: Stage, settings: Settings, inputs: Mapping[str, Any]) -> str:
    """What decides whether a finished stage can be reused: settings, inputs, code (32 hex)."""
    return fingerprints.of(
        {
            "kind": stage.kind,
            "settings": settings.model_dump(mode="json"),
            "inputs": {role: _fingerprints_of(outputs) for role, outputs in inputs.items()},
            "external": external_fingerprints(stage, settings),
            "code": code_version(stage, settings),
        }
    )


def external_fingerprints(stage: Stage, settings: Settings) -> dict[str, str]:
    """Fingerprints of what a stage reads from outside the recipe: files, models, templates."""
    return {
        **stage.external_inputs(settings),
        **{f"model:{ref}": models.fingerprint(ref) for ref in models.referenced(settings)},
        **{f"template:{name}": seen for name, seen in models.template_files(settings).items()},
    }


def code_version(stage: Stage, settings: Settings) -> str:
    """Hash of the stage's own source modules (followed through imports) and prompts."""
    module = REGISTRY[stage.kind].partition(":")[0]
    return fingerprints.of_code(module, stage.sources(settings))


def _fingerprints_of(outputs: StageOutput | list[StageOutput]) -> Any:
    if isinstance(outputs, list):
        return [[output.name, output.fingerprint] for output in outputs]
    return outputs.fingerprint


def run_stage(
    stage: Stage,
    settings: Settings,
    *,
    name: str,
    inputs: dict[str, Any],
    folder: str,
    engines: Any,
    tracker: tracking.Tracker,
    force: bool = False,
) -> StageOutput:
    """Run one stage, or reuse its finished output.

    Args:
        folder: URI under which `<name>/<fingerprint>` is written.
        inputs: role → StageOutput (or list of them).

    Raises:
        ValueError: an input lacks a column that the stage reads, or another process runs the
            same stage.
    """
    check_columns(stage, name, inputs)
    fingerprint = stage_fingerprint(stage, settings, inputs)
    # Absolute, because Ray Train's workers, and who reads the manifest, may be in other folders.
    out = storage.join(storage.absolute(folder), name, fingerprint[:16])
    with storage.locked(out):
        return _run_locked(
            stage,
            settings,
            name=name,
            inputs=inputs,
            out=out,
            fingerprint=fingerprint,
            engines=engines,
            tracker=tracker,
            force=force,
        )


def _run_locked(
    stage: Stage,
    settings: Settings,
    *,
    name: str,
    inputs: dict[str, Any],
    out: str,
    fingerprint: str,
    engines: Any,
    tracker: tracking.Tracker,
    force: bool,
) -> StageOutput:
    """`run_stage` with the stage's folder to itself."""
    manifest_uri = storage.join(out, storage.MANIFEST)
    if storage.exists(manifest_uri) and not force:
        manifest = storage.read_json(manifest_uri)
        log.info("%s: unchanged, reused (%s)", name, out)
        tracker.note_reuse(name, manifest)
        return StageOutput(name, out, fingerprint, stage.kind, manifest)
    if force:
        storage.remove(manifest_uri)  # first: a kill from here on leaves an unfinished stage
        storage.remove(out)
    version = code_version(stage, settings)
    external = external_fingerprints(stage, settings)
    log.info("%s: %s → %s", name, stage.kind, out)
    with tracker.stage_run(
        name=name,
        kind=stage.kind,
        settings=settings.model_dump(mode="json"),
        inputs=inputs,
        fingerprint=fingerprint,
        code_version=version,
        out=out,
    ) as run:
        context = StageContext(name, out, inputs, engines, fingerprint, version, run)
        if stage.own_devices:
            engines.release(gpu_only=True)
        started = time.monotonic()
        result = stage.run(context, settings)
        seconds = time.monotonic() - started
        if (now := external_fingerprints(stage, settings)) != external:
            changed = sorted(key for key in external if now.get(key) != external[key])
            raise ValueError(f"stages.{name}: {', '.join(changed)} changed while it was read")
        manifest = {
            "name": name,
            "kind": stage.kind,
            "fingerprint": fingerprint,
            "code_version": version,
            "settings": settings.model_dump(mode="json"),
            "inputs": {role: _describe(outputs) for role, outputs in inputs.items()},
            "external": external,
            "rows_in": result.rows_in,
            "rows_out": result.rows_out,
            "rejects": result.rejects,
            "metrics": result.metrics,
            "details": result.details,
            "prompts": fingerprints.of_prompts(result.prompts),
            "raw_inputs": result.raw_inputs,
            "seconds": round(seconds, 3),
            "machine": machine.kind(),
            "gpus": sum(machine.gpus().values()),
            "mlflow_run_id": run.run_id,
        }
        if before := ledger.expected(storage.parent(out, 2), fingerprint):
            manifest["expected"] = before
        if "model" in stage.gives:
            manifest["model"] = storage.join(out, storage.MODEL)
        run.finish(manifest)
        storage.write_json(manifest_uri, manifest)
        storage.remove(storage.join(out, storage.WORK))
    log.info("%s", summary_line(manifest))
    return StageOutput(name, out, fingerprint, stage.kind, manifest)


def check_columns(stage: Stage, name: str, inputs: Mapping[str, Any]) -> None:
    """Refuse inputs that lack a column the stage reads."""
    for role, reads in stage.reads.items():
        outputs = inputs.get(role) or []
        for output in outputs if isinstance(outputs, list) else [outputs]:
            if reads.what != "rows" or not reads.columns:
                continue
            present = storage.schema(output.rows).names
            missing = [column for column in reads.columns if column not in present]
            if missing:
                raise ValueError(
                    f"stages.{name}.reads.{role}: rows of {output.name!r} ({output.rows}) lack "
                    f"column(s) {', '.join(missing)}; found: {', '.join(present)}"
                )


def _describe(outputs: StageOutput | list[StageOutput]) -> Any:
    if isinstance(outputs, list):
        return [_describe(output) for output in outputs]
    return {
        "name": outputs.name,
        "uri": outputs.uri,
        "fingerprint": outputs.fingerprint,
        "kind": outputs.kind,
        "mlflow_run_id": outputs.manifest.get("mlflow_run_id"),
    }


def summary_line(manifest: Mapping[str, Any]) -> str:
    """The line that every job ends with: rows in and out, the three reject counts, time."""
    rejects = manifest["rejects"]
    told = []
    for kind, label in (("invalid", "invalid"), ("filtered", "filtered"), ("limit", "left out")):
        reasons = rejects.get(kind, {})
        why = ", ".join(f"{reason} {n}" for reason, n in sorted(reasons.items()))
        told.append(f"{label} {sum(reasons.values())}" + (f" ({why})" if why else ""))
    return (
        f"{manifest['name']}: {manifest['rows_in']} rows in, {manifest['rows_out']} out, "
        f"{', '.join(told)}, {manifest['seconds']:.1f} s"
    )
