"""Runs to compare: from folders to stages, and which stage of one run is which of another's.

A run is a set of finished stages that belong together: what a stage's folder holds and what it
was made from, or of a recipe's folder the latest report (else the latest of every stage).
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayonale import execution, storage
from rayonale.report.evidence import SLOTS, Limits, gather
from rayonale.stages import StageOutput

_PARTS = (storage.ROWS, storage.REJECTS, storage.MODEL)


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        label: short, on every part of the page.
        recipe: name of the folder that holds its stages.
        uri: what was asked for.
        stages: name → finished stage, ancestors first.
        unfinished: stages of the same folder that were begun and not finished.
        css: its colour.
    """

    label: str
    recipe: str
    uri: str
    stages: Mapping[str, StageOutput]
    unfinished: tuple[str, ...] = ()
    css: str = "s0"

    def of_kind(self, kind: str) -> list[StageOutput]:
        """Its stages of a kind."""
        return [stage for stage in self.stages.values() if stage.kind == kind]


@dataclass(frozen=True)
class Aligned:
    """The same stage of several runs; None where a run has none."""

    name: str
    kind: str
    outputs: tuple[StageOutput | None, ...]

    def manifests(self) -> list[Mapping[str, Any]]:
        """Of each run; empty where it has no such stage."""
        return [output.manifest if output is not None else {} for output in self.outputs]


@dataclass(frozen=True)
class Comparison:
    """What sections draw from.

    Attributes:
        price: of a GPU-hour; None tells no cost.
    """

    runs: Sequence[Run]
    stages: Sequence[Aligned]
    limits: Limits = field(default_factory=Limits)
    price: float | None = None

    def of_kind(self, *kinds: str) -> list[Aligned]:
        """Stages of some kinds that two runs or more have."""
        return [
            stage
            for stage in self.stages
            if stage.kind in kinds and sum(output is not None for output in stage.outputs) > 1
        ]


def open_runs(
    folders: Sequence[str],
    labels: Sequence[str] = (),
    *,
    limits: Limits | None = None,
    price: float | None = None,
) -> Comparison:
    """Open and align runs.

    Args:
        folders: of stages, or of recipes (`runs/<recipe>`).
        labels: of the runs, in order; made from what tells them apart where none are given.

    Raises:
        ValueError: fewer than two runs, one twice, one that is not there or has nothing finished,
            labels that do not fit, or runs that have no kind of stage in common.
    """
    opened = [_open(folder.rstrip("/")) for folder in folders]
    if len(folders) < 2:
        told = "".join(f"\n  {report}" for one in folders for report in _reports(one.rstrip("/")))
        raise ValueError(
            f"{len(folders)} run(s) given; expected two or more to compare"
            + (f"; reports there, the latest last:{told}" if told else "")
        )
    for at, (_, stages, _) in enumerate(opened):
        same = [n for n in range(at) if _ids(opened[n][1]) == _ids(stages)]
        if same:
            raise ValueError(f"{folders[at]} and {folders[same[0]]} are the same run; expected two")
    if labels and (len(labels) != len(folders) or len(set(labels)) != len(labels)):
        raise ValueError(f"labels {list(labels)}: expected {len(folders)} different ones")
    recipes = [recipe for recipe, _, _ in opened]
    named = list(labels) or _labels(recipes)
    runs = [
        Run(named[at], recipe, folders[at], stages, unfinished, f"s{at % SLOTS + 1}")
        for at, (recipe, stages, unfinished) in enumerate(opened)
    ]
    _require_common(runs)
    return Comparison(runs, align(runs), limits or Limits(), price)


def _ids(stages: Mapping[str, StageOutput]) -> set[str]:
    return {stage.uri for stage in stages.values()}


def _labels(recipes: Sequence[str]) -> list[str]:
    """The recipes' names; letters where they repeat."""
    if len(set(recipes)) == len(recipes):
        return list(recipes)
    seen = Counter(recipes)
    letters = (chr(ord("A") + at) if at < 26 else str(at + 1) for at in range(len(recipes)))
    return [
        f"{letter}: {name}" if seen[name] < len(recipes) else f"run {letter}"
        for letter, name in zip(letters, recipes, strict=True)
    ]


def _require_common(runs: Sequence[Run]) -> None:
    kinds = [{stage.kind for stage in run.stages.values()} - {"report"} for run in runs]
    if not set.intersection(*kinds):
        told = "; ".join(
            f"{run.label}: {', '.join(sorted(found))}"
            for run, found in zip(runs, kinds, strict=True)
        )
        raise ValueError(f"runs with no kind of stage in common cannot be compared ({told})")


def _open(uri: str) -> tuple[str, dict[str, StageOutput], tuple[str, ...]]:
    """(recipe, stages, unfinished) of a folder.

    Raises:
        ValueError: it is not there, not a run, or nothing in it is finished.
    """
    if not storage.exists(uri):
        raise ValueError(f"{uri}: no such folder{_near(uri)}")
    last = uri.rsplit("/", 1)[-1]
    folder = storage.parent(uri) if last in _PARTS or "." in last[-6:] else uri
    if storage.exists(storage.join(folder, storage.MANIFEST)):
        return storage.absolute(folder).split("/")[-3], _with_ancestors(folder), ()
    if storage.exists(storage.join(folder, storage.WORK)):
        execution.open_output(folder)  # tells that it has not finished
    finished, begun = _found(folder, "*"), _begun(folder, "*")
    if finished or begun:
        return _of_stage(folder, finished)
    finished, begun = _found(folder, "*/*"), _begun(folder, "*/*")
    if finished:
        stages = _latest(finished)
        unfinished = sorted({stage.split("/")[-2] for stage in begun})
        return storage.absolute(folder).split("/")[-1], stages, tuple(unfinished)
    if begun:
        names = sorted({stage.split("/")[-2] for stage in begun})
        raise ValueError(
            f"{uri}: no stage has finished ({', '.join(names)} began); run the recipe again first"
        )
    recipes = sorted({found.split("/")[-3] for found in _found(folder, "*/*/*")})
    if recipes:
        raise ValueError(
            f"{uri}: holds runs of {len(recipes)} recipe(s); name one of their folders: "
            f"{', '.join(storage.join(uri, name) for name in recipes)}"
        )
    raise ValueError(
        f"{uri}: not a run; expected a stage's folder (with a {storage.MANIFEST}) or a recipe's "
        "(runs/<recipe>)"
    )


def _of_stage(
    folder: str, finished: Sequence[str]
) -> tuple[str, dict[str, StageOutput], tuple[str, ...]]:
    """`runs/<recipe>/<stage>`: its latest."""
    if not finished:
        raise ValueError(f"{folder}: this stage has not finished; run its command again first")
    return storage.absolute(folder).split("/")[-2], _with_ancestors(finished[-1]), ()


def _near(uri: str) -> str:
    parent, _, last = uri.rpartition("/")
    if not parent or not storage.exists(parent):
        return ""
    fs, path = storage.filesystem(parent)
    names = [name.rstrip("/").rsplit("/", 1)[-1] for name in fs.ls(path, detail=False)]
    close = difflib.get_close_matches(last, [n for n in names if not n.startswith(".")], n=3)
    return f"; near it: {', '.join(storage.join(parent, name) for name in close)}" if close else ""


def _found(folder: str, depth: str) -> list[str]:
    """Finished stages at a depth below a folder, the latest written last."""
    fs, path = storage.filesystem(folder)
    path = path.rstrip("/")
    files = fs.glob(f"{path}/{depth}/{storage.MANIFEST}")
    ordered = sorted(files, key=lambda file: (fs.modified(file), file))
    return [storage.join(folder, file[len(path) :].rpartition("/")[0]) for file in ordered]


def _reports(folder: str) -> list[str]:
    """Finished reports of a recipe's folder: each stands for a run."""
    return _found(folder, "report/*")


def _begun(folder: str, depth: str) -> list[str]:
    """Stages at a depth that have `work/` and no manifest."""
    fs, path = storage.filesystem(folder)
    path = path.rstrip("/")
    found = [file.rstrip("/").rpartition("/")[0] for file in fs.glob(f"{path}/{depth}/work")]
    return [file for file in found if not fs.exists(f"{file}/{storage.MANIFEST}")]


def _latest(finished: Sequence[str]) -> dict[str, StageOutput]:
    """Of a recipe's folder: the latest report and what it reads, else the latest of every stage."""
    outputs = [execution.open_output(folder) for folder in finished]
    reports = [output for output in outputs if output.kind == "report"]
    if reports:
        return {stage.name: stage for stage in gather(reports[-1:], "").outputs}
    latest = {output.name: output for output in outputs}
    return {stage.name: stage for stage in gather(list(latest.values()), "").outputs}


def _with_ancestors(folder: str) -> dict[str, StageOutput]:
    evidence = gather([execution.open_output(storage.absolute(folder))], "")
    return {stage.name: stage for stage in evidence.outputs}


def align(runs: Sequence[Run]) -> list[Aligned]:
    """Stages by name and kind; one that is left alone of its kind in several runs is the same."""
    found: dict[str, list[StageOutput | None]] = {}
    kinds: dict[str, str] = {}
    for at, run in enumerate(runs):
        for name, stage in run.stages.items():
            key = name if kinds.setdefault(name, stage.kind) == stage.kind else f"{name} ({at + 1})"
            kinds[key] = stage.kind
            found.setdefault(key, [None] * len(runs))[at] = stage
    for kind in dict.fromkeys(kinds.values()):
        lonely = [n for n, outputs in found.items() if kinds[n] == kind and outputs.count(None)]
        held = [at for n in lonely for at, output in enumerate(found[n]) if output is not None]
        if len(lonely) > 1 and len(set(held)) == len(held):  # no run has two of them
            merged = found[lonely[0]]
            for name in lonely[1:]:
                others = found.pop(name)
                merged[:] = [a or b for a, b in zip(merged, others, strict=True)]
            names = " / ".join(lonely)
            found = {names if n == lonely[0] else n: outputs for n, outputs in found.items()}
            kinds[names] = kind
    return [Aligned(name, kinds[name], tuple(outputs)) for name, outputs in found.items()]
