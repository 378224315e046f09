"""Where the time went, how fast each stage was, and what had been estimated."""

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
    every = [_stage(stage, longest) for stage in timed]
    rows = [row for row in every if row["stage"] not in evidence.hidden]
    rows += _together([row for row in every if row["stage"] in evidence.hidden], longest)
    both = [row for row in every if row["expected"] is not None]
    expected = sum(row["expected"] for row in both)
    took = sum(row["seconds"] for row in both)
    html = render(
        "sections/timings.html.jinja", rows=rows, total=total, both=len(both), expected=expected,
        took=took,
    )  # fmt: skip
    numbers = {"total_seconds": total, "stages": rows}
    if both:
        numbers |= {"expected_seconds": expected, "expected_took": took}
    return Section("time", "Time", html, numbers)


def _together(rows: Sequence[dict[str, Any]], longest: float) -> list[dict[str, Any]]:
    """Stages of a sweep's other cells, a row for each kind."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row["kind"], []).append(row)
    return [
        {
            "stage": f"{len(some)} more",
            "kind": kind,
            "seconds": (seconds := sum(row["seconds"] for row in some)),
            "width": min(100.0, 100 * seconds / longest),
            "expected": None
            if any(row["expected"] is None for row in some)
            else sum(row["expected"] for row in some),
            "rates": [],
        }
        for kind, some in kinds.items()
    ]


def _stage(stage: StageOutput, longest: float) -> dict[str, Any]:
    metrics = stage.manifest.get("metrics") or {}
    seconds = float(stage.manifest["seconds"])
    return {
        "stage": stage.name,
        "kind": stage.kind,
        "seconds": seconds,
        "width": 100 * seconds / longest,
        "expected": (stage.manifest.get("expected") or {}).get("seconds"),
        "rates": [
            f"{metrics[name]:,.0f} {unit}" if metrics[name] >= 10 else f"{metrics[name]:.2g} {unit}"
            for name, unit in _RATES.items()
            if metrics.get(name) is not None
        ],
    }
