"""Where the time went, and how fast each stage was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rayonale.report.evidence import Evidence
from rayonale.report.page import Section, render
from rayonale.stages import StageOutput

# Throughputs that stages report, with their units.
_RATES = {
    "rows_per_second": "rows/s",
    "pairs_per_second": "pairs/s",
    "tokens_per_second": "tokens/s",
    "generated_tokens_per_second": "generated tokens/s",
}


def section(evidence: Evidence) -> Section | None:
    """A table with bars; None when no stage was timed."""
    timed = [stage for stage in evidence.outputs if stage.manifest.get("seconds") is not None]
    if not timed:
        return None
    longest = max(float(stage.manifest["seconds"]) for stage in timed) or 1.0
    total = sum(float(stage.manifest["seconds"]) for stage in timed)
    rows = [_stage(stage, longest) for stage in timed if stage.name not in evidence.hidden]
    rows += _together([stage for stage in timed if stage.name in evidence.hidden], longest)
    html = render("sections/timings.html.jinja", rows=rows, total=total)
    return Section("time", "Time", html, {"total_seconds": total, "stages": rows})


def _together(stages: Sequence[StageOutput], longest: float) -> list[dict[str, Any]]:
    """Stages of a sweep's other cells, a row for each kind."""
    seconds: dict[str, list[float]] = {}
    for stage in stages:
        seconds.setdefault(stage.kind, []).append(float(stage.manifest["seconds"]))
    return [
        {
            "stage": f"{len(times)} more", "kind": kind, "seconds": sum(times),
            "width": min(100.0, 100 * sum(times) / longest), "rates": [],
        }
        for kind, times in seconds.items()
    ]  # fmt: skip


def _stage(stage: StageOutput, longest: float) -> dict[str, Any]:
    metrics = stage.manifest.get("metrics") or {}
    seconds = float(stage.manifest["seconds"])
    return {
        "stage": stage.name,
        "kind": stage.kind,
        "seconds": seconds,
        "width": 100 * seconds / longest,
        "rates": [
            f"{metrics[name]:,.0f} {unit}" if metrics[name] >= 10 else f"{metrics[name]:.2g} {unit}"
            for name, unit in _RATES.items()
            if metrics.get(name) is not None
        ],
    }
