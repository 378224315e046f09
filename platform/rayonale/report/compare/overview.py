"""Which runs these are."""

from __future__ import annotations

from typing import Any

from rayonale.report.compare.runs import Comparison, Run
from rayonale.report.page import Section, render


def section(comparison: Comparison) -> Section:
    """A row for each run, and the stages that not all of them have."""
    rows = [_run(run) for run in comparison.runs]
    alone = [
        {"stage": stage.name, "kind": stage.kind,
         "runs": [run.label for run, output in zip(comparison.runs, stage.outputs, strict=True)
                  if output is not None]}
        for stage in comparison.stages
        if None in stage.outputs
    ]  # fmt: skip
    html = render("compare/overview.html.jinja", rows=rows, alone=alone)
    return Section("runs", "Runs", html, {"runs": rows, "alone": alone})


def _run(run: Run) -> dict[str, Any]:
    manifests = [stage.manifest for stage in run.stages.values()]
    return {
        "label": run.label,
        "css": run.css,
        "recipe": run.recipe,
        "uri": run.uri,
        "stages": len(run.stages),
        "seconds": sum(float(m.get("seconds") or 0) for m in manifests),
        "machines": sorted({str(m["machine"]) for m in manifests if m.get("machine")}),
        "unfinished": list(run.unfinished),
    }
