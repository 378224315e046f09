"""The `study` stage: what the cells of a sweep say together.

win_rates (many) ─┐
margins (many) ───┼─ cells {policy, method, size, seed} ─► win rates by size, paired tests, pairs
trained policies ─┘                                        needed, the paper's claims

A repetition (`seed`) is the unit that intervals generalise over, beside the prompt: cells of one
seed should be trained on the same rows and differ from those of another seed in theirs.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import pyarrow as pa
from pydantic import Field, model_validator

from rayonale import storage
from rayonale.evaluate.cells import Cells, CellSettings, read_verdicts
from rayonale.evaluate.paper_claims import ROLES, verdicts
from rayonale.evaluate.study_tables import Study, tables
from rayonale.stages import Reads, Settings, Stage, StageContext, StageOutput, StageResult

log = logging.getLogger("rayonale")

# One row a method and size: its win rate against the baseline.
ROWS = pa.schema(
    [
        ("id", pa.string()),
        ("method", pa.string()),
        ("size", pa.int64()),
        ("judge", pa.string()),
        ("win_rate", pa.float64()),
        ("low", pa.float64()),  # over seeds and prompts
        ("high", pa.float64()),
        ("prompts_low", pa.float64()),  # over prompts, for just these seeds
        ("prompts_high", pa.float64()),
        ("by_seed", pa.list_(pa.float64())),
        ("seeds", pa.list_(pa.int64())),
        ("prompts", pa.int64()),
    ]
)


class StudySettings(Settings):
    """Settings of the `study` stage.

    Attributes:
        cells: the policies of the sweep, each with its method, size and seed.
        baseline: policy that all are compared with (the SFT model).
        judge: whose verdicts count; None takes the first scorer, else the first judge.
        pairs: methods tested against each other at equal size; None tests all.
        roles: what the paper calls a method → method of the cells, where the names differ.
        target: win rate against the baseline at which sizes are read off; None takes 90 % of
            DPO's gain at its largest size.
        level: confidence level of intervals.
        seed: of bootstraps.
    """

    cells: tuple[CellSettings, ...] = Field(min_length=1)
    baseline: str
    judge: str | None = None
    pairs: tuple[tuple[str, str], ...] | None = None
    roles: dict[str, str] = Field(default_factory=dict)
    target: float | None = Field(None, gt=0.5, lt=1)
    level: float = Field(0.95, gt=0, lt=1)
    seed: int = 0

    @model_validator(mode="after")
    def _fits(self) -> StudySettings:
        methods = {cell.method for cell in self.cells}
        told = [
            f"cells: {what} comes twice"
            for what, n in Counter((c.method, c.size, c.seed) for c in self.cells).items()
            if n > 1
        ]
        told += [
            f"cells: policy {policy!r} comes twice"
            for policy, n in Counter(c.policy for c in self.cells).items()
            if n > 1
        ]
        named = {*self.roles.values(), *(name for pair in self.pairs or () for name in pair)}
        told += [
            f"no cell has the method {name!r}; methods: {', '.join(sorted(methods))}"
            for name in sorted(named - methods)
        ]
        told += [
            f"roles: unknown {name!r}; choices: {', '.join(ROLES)}"
            for name in sorted(set(self.roles) - set(ROLES))
        ]
        told += [f"pairs: {a!r} with itself" for a, b in self.pairs or () if a == b]
        if any(cell.policy == self.baseline for cell in self.cells):
            told.append(f"baseline: {self.baseline!r} is a cell; expected the policy before them")
        if told:
            raise ValueError("; ".join(told))
        return self


def run(context: StageContext, settings: StudySettings) -> StageResult:
    """Compute curves, tests and claims.

    Raises:
        ValueError: a cell that was not compared, or no comparison at all.
    """
    found = read_verdicts(context.inputs["win_rates"], settings.judge)
    cells = Cells(settings.cells, settings.baseline, found)
    require_compared(cells)
    study = Study(
        cells, settings.roles, settings.target, settings.level, settings.seed,
        margins=_margins(context.inputs.get("margins") or []),
        runs={one.name: _run(one.manifest) for one in context.inputs.get("policies") or []},
    )  # fmt: skip
    require_trained(study)
    pairs = settings.pairs
    if pairs is None:
        pairs = tuple((b, a) for a, b in combinations(cells.methods, 2))
    details = tables(study, pairs)
    details |= {
        "judge": found.judge, "baseline": settings.baseline, "level": settings.level,
        "cells": [cell.model_dump() for cell in settings.cells], "claims": verdicts(study),
    }  # fmt: skip
    rows = [_row(entry, found.judge) for entry in details["curves"]]
    storage.write_rows(storage.join(context.out, storage.ROWS), iter(rows), ROWS)
    told = Counter(claim["verdict"] for claim in details["claims"])
    log.info("%s: claims: %s", context.name, ", ".join(f"{n} {v}" for v, n in told.items()))
    return StageResult(
        rows_in=len(settings.cells), rows_out=len(rows), metrics=metrics(details), details=details
    )


def require_compared(cells: Cells) -> None:
    """Refuse cells without comparisons: a curve with holes would mislead.

    Raises:
        ValueError: names them, and what was compared.
    """
    missing = [
        cell.policy
        for cell in cells.cells
        if cells.verdicts.outcomes(cell.policy, cells.baseline) is None
    ]
    if missing:
        known = sorted({name for pair in cells.verdicts.compared for name in pair})
        raise ValueError(
            f"cells: {', '.join(missing)} not compared with {cells.baseline!r} by "
            f"{cells.verdicts.judge!r}; compared policies: {', '.join(known)}"
        )


def require_trained(study: Study) -> None:
    """Refuse a cell whose policy was trained on clearly other than its size says.

    Rows that training leaves out may make it less, by up to a tenth.

    Raises:
        ValueError: names the cell and both numbers.
    """
    for cell in study.cells.cells:
        pairs = study.runs.get(cell.policy, {}).get("pairs", cell.size)
        if not 0.9 * cell.size <= pairs <= cell.size:
            raise ValueError(
                f"cells: {cell.policy} is said to be trained on {cell.size:,} pairs; its stage "
                f"used {pairs:,}"
            )


def _margins(outputs: list[StageOutput]) -> dict[str, dict[str, Any]]:
    """policy → entry of the margins stages read."""
    return {
        str(entry["policy"]): entry
        for output in outputs
        for entry in output.manifest.get("details", {}).get("margins") or []
    }


def _run(manifest: Mapping[str, Any]) -> dict[str, Any]:
    metrics = manifest.get("metrics") or {}
    return {
        "pairs": int(manifest.get("rows_out") or 0),
        "seconds": float(metrics.get("train_seconds") or manifest.get("seconds") or 0.0),
    }


def _row(entry: Mapping[str, Any], judge: str) -> dict[str, Any]:
    return {
        "id": f"{entry['method']}/{entry['size']}", "judge": judge, "win_rate": entry["value"],
        **{n: entry[n] for n in ("method", "size", "low", "high", "prompts_low", "prompts_high")},
        "by_seed": list(entry["by_seed"]), "seeds": entry["seed_names"],
        "prompts": entry["prompts"],
    }  # fmt: skip


def metrics(details: Mapping[str, Any]) -> dict[str, float]:
    """The tables as flat names and numbers, for MLflow and the manifest."""
    flat: dict[str, float | None] = {}
    for entry in details["curves"]:
        at = f"win_rate/{entry['method']}/{entry['size']}"
        flat |= {at: entry["value"], f"{at}/low": entry["low"], f"{at}/high": entry["high"]}
    for entry in details["tests"]:
        at = f"test/{entry['a']}_vs_{entry['b']}/{entry['size']}"
        flat |= {at: entry["value"], f"{at}/p_holm": entry["p_holm"]}
    for entry in details["needed"]:
        flat[f"pairs_needed/{entry['method']}"] = entry["value_high"]
    for entry in details["claims"]:
        flat[f"claim/{entry['key']}"] = entry.get("value")
    return {name: float(value) for name, value in flat.items() if value is not None}


STAGE = Stage(
    kind="study",
    settings=StudySettings,
    run=run,
    reads={
        "win_rates": Reads(
            "rows", columns=("policy_a", "policy_b", "prompt_id", "outcome"), many=True
        ),
        "margins": Reads("rows", columns=("policy", "margin"), many=True, optional=True),
        "policies": Reads("model", many=True, optional=True),
    },
    adds=tuple(ROWS.names),
)
