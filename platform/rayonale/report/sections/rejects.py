"""Rows that left the flow: how many, why, and examples."""

from __future__ import annotations

from typing import Any

from rayonale.report.evidence import Evidence, rejects
from rayonale.report.page import Section, render
from rayonale.report.text import visible
from rayonale.stages import StageOutput

_KINDS = {"invalid": "invalid", "filtered": "filtered by a rule", "limit": "left out by a limit"}


def section(evidence: Evidence) -> Section | None:
    """A table by stage and reason; None when no stage handled rows."""
    stages = [s for s in evidence.outputs if s.manifest.get("rows_in") or _counted(s)]
    if not stages:
        return None
    rows = [_stage(s) for s in stages if s.name not in evidence.hidden or _counted(s)]
    blocks = [
        {"stage": stage.name, "reasons": _examples(stage, evidence)}
        for stage in stages
        if _counted(stage)
    ]
    html = render("sections/rejects.html.jinja", rows=rows, kinds=_KINDS, blocks=blocks)
    return Section("rejects", "Rows and rejects", html, rows)


def _counted(stage: StageOutput) -> dict[str, dict[str, int]]:
    found = stage.manifest.get("rejects") or {}
    return {kind: reasons for kind, reasons in found.items() if sum(reasons.values())}


def _stage(stage: StageOutput) -> dict[str, Any]:
    counted = _counted(stage)
    return {
        "stage": stage.name,
        "rows_in": stage.manifest.get("rows_in"),
        "rows_out": stage.manifest.get("rows_out"),
        **{kind: sum(counted.get(kind, {}).values()) for kind in _KINDS},
    }


def _examples(stage: StageOutput, evidence: Evidence) -> list[dict[str, Any]]:
    """Each reason with its count and a few examples, commonest first."""
    found = {
        (kind, reason): {"kind": _KINDS.get(kind, kind), "reason": reason, "count": n,
                         "examples": []}
        for kind, reasons in _counted(stage).items()
        for reason, n in reasons.items()
    }  # fmt: skip
    most = evidence.limits.rejects_per_reason
    for row in rejects(stage):
        entry: dict[str, Any] | None = found.get((row["kind"], row["reason"]))
        if entry is not None and len(entry["examples"]) < most:
            where = f"{row['source']}:{row['line']}" if row.get("source") else row.get("id") or ""
            entry["examples"].append(
                {"where": where, "detail": visible(row["detail"], 400),
                 "row": visible(row["row"], 600)}
            )  # fmt: skip
    return sorted(found.values(), key=lambda entry: -entry["count"])
