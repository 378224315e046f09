"""Recipes: one YAML file is one experiment.

    name: rdpo-tinyworld
    runs: runs                       # folder or URI that holds every stage's output
    stages:
      pairs: {kind: ingest, sources: [{uri: pairs.jsonl}]}
      sft:   {kind: train, reads: {rows: pairs}, loss: {name: sft}}
      dpo:   {kind: train, reads: {rows: pairs, model: sft}, loss: {name: dpo}}

A stage names its kind, its settings, and in `reads` the stages (or folders) that it reads, by
role. `load` checks everything that can be checked without running anything and tells every
error at once, each with its path; `execution.run` runs what it returns. `axes` make a stage stand
for many: see `sweep.py`.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import fsspec
import yaml
from pydantic import ValidationError

from rayonale import stages, sweep
from rayonale.stages import Settings, Stage

_TOP_LEVEL = ("name", "description", "runs", "parallel", "axes", "stages")


class RecipeError(ValueError):
    """Everything that is wrong with a recipe, one line each."""

    def __init__(self, where: str, problems: list[str]) -> None:
        self.problems = problems
        told = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(f"{where}: {len(problems)} problem(s)\n{told}")


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a recipe, checked: its kind, typed settings and what it reads."""

    name: str
    stage: Stage
    settings: Settings
    reads: Mapping[str, str | list[str]]

    def upstream(self) -> list[str]:
        """Names (or folders) that the stage reads, in order."""
        found: list[str] = []
        for names in self.reads.values():
            found.extend(names if isinstance(names, list) else [names])
        return found


@dataclass(frozen=True)
class Recipe:
    """A checked recipe; `stages` is in the order in which they run.

    Attributes:
        parallel: how many trainings may run at once; the machine must have room for them.
    """

    name: str
    description: str
    runs: str
    stages: Mapping[str, PlannedStage]
    source: str = ""
    overrides: tuple[str, ...] = field(default=())
    parallel: int = 1


def load(uri: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        uri: path or URI of the YAML file.
        overrides: `a.b.c=value` assignments (values are YAML), applied in order; those of a
            single cell of a sweep come last.

    Raises:
        RecipeError: with every problem found.
        FileNotFoundError: no such file.
    """
    with fsspec.open(uri, "r", encoding="utf-8") as file:
        text = file.read()
    try:
        document = yaml.load(text, _UniqueKeys)
    except yaml.YAMLError as error:
        raise RecipeError(uri, [f"not YAML: {error}"]) from error
    if not isinstance(document, dict):
        raise RecipeError(uri, [f"found {type(document).__name__}, expected a mapping"])
    overrides = tuple(overrides)
    of_cells = [o for o in overrides if _names_a_cell(document, o)]
    problems = [p for o in overrides if o not in of_cells and (p := _override(document, o))]
    if problems:
        raise RecipeError(uri, problems)
    return parse(document, source=uri, overrides=overrides, of_cells=of_cells)


def parse(
    document: dict[str, Any],
    source: str,
    overrides: tuple[str, ...] = (),
    of_cells: Iterable[str] = (),
) -> Recipe:
    """Check a recipe that is already a mapping; see `load`.

    Args:
        overrides: what was applied to it, for the record.
        of_cells: those among them that are still to be applied, once sweeps are expanded.
    """
    problems = [
        f"{key}: unknown key; expected {', '.join(_TOP_LEVEL)}"
        for key in document
        if key not in _TOP_LEVEL
    ]
    written = document.get("stages")
    if not isinstance(written, dict) or not written:
        raise RecipeError(source, [*problems, "stages: expected a mapping of named stages"])
    swept = sweep.expand(document)
    problems += swept.problems
    raw_stages = swept.stages
    problems += [p for o in of_cells if (p := _override({"stages": raw_stages}, o))]
    title = str(document.get("name") or Path(source).stem)
    if not re.fullmatch(r"[\w-][\w.-]*", title):
        problems.append(
            f"name: found {title!r}, expected letters, digits, '-', '_' and '.' (it names a folder)"
        )
    parallel = document.get("parallel", 1)
    if not isinstance(parallel, int) or parallel < 1:
        problems.append(f"parallel: found {parallel!r}, expected how many trainings run at once")
    twice = sorted(name for name, n in Counter(map(str, written)).items() if n > 1)
    problems += [f"stages.{name}: given twice (as a number and as text)" for name in twice]
    planned: dict[str, PlannedStage] = {}
    for name, raw in raw_stages.items():
        if str(name) in swept.broken:
            continue
        stage_problems, stage = _parse_stage(str(name), raw)
        problems += stage_problems
        if stage is not None:
            planned[stage.name] = stage
    names = [str(name) for name in raw_stages]
    problems += [p for stage in planned.values() for p in _check_reads(stage, planned, names)]
    ordered = _ordered(planned, problems)
    if not problems:
        problems += _check_flow(ordered)
    if problems:
        raise RecipeError(source, swept.told_once(problems))
    return Recipe(
        name=title,
        description=str(document.get("description") or "").strip(),
        runs=str(document.get("runs") or "runs"),
        stages={name: planned[name] for name in ordered_names(ordered)},
        source=source,
        overrides=overrides,
        parallel=parallel,
    )


def ordered_names(ordered: Iterable[PlannedStage]) -> list[str]:
    """Names in running order."""
    return [stage.name for stage in ordered]


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key given twice, and reads 5e-7 as the number it looks like."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value if key.value != "<<"]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: key(s) given twice: {twice}")
        return dict(super().construct_mapping(node, deep=deep))


_UniqueKeys.add_implicit_resolver(  # YAML 1.1 would read 5e-7 as text
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _names_a_cell(document: dict[str, Any], assignment: str) -> bool:
    """Whether an override is of a stage that only a sweep's expansion gives."""
    head, _, rest = assignment.strip().partition(".")
    written = document.get("stages")
    known = map(str, written) if isinstance(written, dict) else ()
    name = rest.partition(".")[0].partition("=")[0]
    return sweep.AXES in document and head == "stages" and name not in known


def _override(document: dict[str, Any], assignment: str) -> str | None:
    """Apply `a.b.c=value`; a message when it cannot be."""
    path, sign, value = assignment.partition("=")
    if not sign or not path:
        return f"override {assignment!r}: expected a.b.c=value"
    *parents, last = path.strip().split(".")
    node: Any = document
    for depth, key in enumerate(parents):
        at = ".".join(parents[: depth + 1])
        if isinstance(node, list) and key.isdigit() and int(key) < len(node):
            node = node[int(key)]
        elif isinstance(node, dict):
            if key not in node and parents[0] == "stages" and depth == 1:
                return f"override {assignment!r}: no stage {key!r}{near(key, list(node))}"
            node = node.setdefault(key, {})
        else:
            return f"override {assignment!r}: {at} is not a mapping"
    try:
        parsed = yaml.load(value, _UniqueKeys)
    except yaml.YAMLError as error:
        return f"override {assignment!r}: not YAML: {error}"
    if isinstance(node, list) and last.isdigit() and int(last) < len(node):
        node[int(last)] = parsed
    elif isinstance(node, dict):
        node[last] = parsed
    else:
        return f"override {assignment!r}: {'.'.join(parents)} is not a mapping"
    return None


def _parse_stage(name: str, raw: Any) -> tuple[list[str], PlannedStage | None]:
    at = f"stages.{name}"
    if not isinstance(raw, dict):
        return [f"{at}: found {type(raw).__name__}, expected a mapping with a kind"], None
    if not name.replace("-", "").replace("_", "").isalnum():
        return [f"{at}: a stage's name is letters, digits, '-' and '_' (it names a folder)"], None
    kind = raw.get("kind")
    if kind not in stages.REGISTRY:
        choices = sorted(stages.REGISTRY)
        return [
            f"{at}.kind: found {kind!r}{near(str(kind), choices)}; choices: {', '.join(choices)}"
        ], None
    stage = stages.get(str(kind))
    reads, problems = _parse_reads(at, stage, raw.get("reads") or {})
    values = {key: value for key, value in raw.items() if key not in ("kind", "reads")}
    try:
        settings = stage.settings.model_validate(values)
    except ValidationError as error:
        return problems + _pydantic_problems(at, stage, error), None
    problems += [f"{at}.{message}" for message in stage.validate(settings)]
    problems += [
        f"{at}.{role}: the stage read as {role!r} ({reads[role]}) takes its place; give one of them"
        for role in stage.reads
        if role in reads and role in settings.model_fields_set
    ]
    return problems, PlannedStage(name, stage, settings, reads)


def _parse_reads(at: str, stage: Stage, raw: Any) -> tuple[dict[str, Any], list[str]]:
    if not isinstance(raw, dict):
        return {}, [f"{at}.reads: expected a mapping role: stage; roles: {_roles(stage)}"]
    problems: list[str] = []
    reads: dict[str, str | list[str]] = {}
    for role, names in raw.items():
        if role not in stage.reads:
            problems.append(f"{at}.reads.{role}: unknown role; {stage.kind} reads: {_roles(stage)}")
        elif stage.reads[role].many:
            reads[role] = [str(n) for n in (names if isinstance(names, list) else [names])]
        elif not isinstance(names, str):
            problems.append(f"{at}.reads.{role}: found {names!r}, expected one stage's name")
        else:
            reads[role] = names
    for role, needed in stage.reads.items():
        if role not in raw and not needed.optional:
            problems.append(
                f"{at}.reads.{role}: missing; expected the stage whose {needed.what} are read"
            )
    return reads, problems


def _roles(stage: Stage) -> str:
    return (
        ", ".join(
            role + (" (optional)" if reads.optional else "") for role, reads in stage.reads.items()
        )
        or "nothing"
    )


def _pydantic_problems(at: str, stage: Stage, error: ValidationError) -> list[str]:
    told = []
    for item in error.errors():
        path = ".".join([at, *(str(part) for part in item["loc"])])
        if item["type"] == "extra_forbidden":
            choices = _field_names(stage.settings, item["loc"][:-1])
            message = f"unknown key{near(str(item['loc'][-1]), choices)}"
        else:
            found = "" if item["type"] == "missing" else f", found {item['input']!r:.80}"
            message = item["msg"][0].lower() + item["msg"][1:] + found
        told.append(f"{path}: {message}")
    return told


def _field_names(model: Any, path: tuple[Any, ...]) -> list[str]:
    for part in path:
        entry = getattr(model, "model_fields", {}).get(part)
        model = entry.annotation if entry is not None else None
    return list(getattr(model, "model_fields", {}))


def near(word: str, choices: list[str]) -> str:
    close = difflib.get_close_matches(word, choices, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _is_folder(name: str) -> bool:
    return "/" in name


def _check_reads(
    stage: PlannedStage, planned: Mapping[str, PlannedStage], names: list[str]
) -> list[str]:
    problems = []
    for role, read in stage.reads.items():
        for name in read if isinstance(read, list) else [read]:
            at = f"stages.{stage.name}.reads.{role}"
            what = stage.stage.reads[role].what
            if _is_folder(name):
                continue
            if name not in names:
                problems.append(
                    f"{at}: no stage {name!r}{near(name, names)}; a folder is written with a '/'"
                )
            elif name in planned and what != "any" and what not in planned[name].stage.gives:
                gives = " and ".join(planned[name].stage.gives)
                problems.append(
                    f"{at}: {name!r} ({planned[name].stage.kind}) gives {gives}, expected {what}"
                )
    return problems


def _ordered(planned: Mapping[str, PlannedStage], problems: list[str]) -> list[PlannedStage]:
    graph = {
        stage.name: [n for n in stage.upstream() if n in planned] for stage in planned.values()
    }
    sorter = TopologicalSorter(graph)
    try:
        sorter.prepare()
    except CycleError as error:
        problems.append(f"stages: they read each other in a circle: {' → '.join(error.args[1])}")
        return []
    # In the file's order wherever dependencies allow it: stages that share engines stay together.
    order, place = list[str](), {name: number for number, name in enumerate(planned)}
    ready: set[str] = set()
    while sorter.is_active():
        ready.update(sorter.get_ready())
        name = min(ready, key=place.__getitem__)
        ready.remove(name)
        order.append(name)
        sorter.done(name)
    return [planned[name] for name in order]


def _check_flow(ordered: list[PlannedStage]) -> list[str]:
    """Columns that a stage reads must come from somewhere upstream."""
    problems, columns = [], dict[str, set[str] | None]()
    for stage in ordered:
        carried: set[str] | None = set()
        for role, reads in stage.stage.reads.items():
            names = stage.reads.get(role, [])
            for name in names if isinstance(names, list) else [names]:
                present = columns.get(name)
                if reads.what == "rows" and present is not None:
                    missing = [c for c in reads.columns if c not in present]
                    if missing:
                        problems.append(
                            f"stages.{stage.name}.reads.{role}: {name!r} does not "
                            f"give column(s) {', '.join(missing)}"
                        )
                if role == "rows":
                    carried = None if present is None or carried is None else carried | present
        columns[stage.name] = None if carried is None else carried | set(stage.stage.adds)
    return problems
