"""Time of every stage of every run, tokens, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayonale.report.compare.runs import Comparison, Run
from rayonale.report.page import Section, render


def section(comparison: Comparison) -> Section:
    """A table of times with sums, GPU-hours and cost."""
    rows = [
        {"stage": stage.name, "kind": stage.kind,
         "seconds": [m.get("seconds") for m in stage.manifests()],
         "expected": [(m.get("expected") or {}).get("seconds") for m in stage.manifests()]}
        for stage in comparison.stages
    ]  # fmt: skip
    totals = [total(run, comparison.price) for run in comparison.runs]
    html = render(
        "compare/costs.html.jinja", rows=rows, totals=totals, runs=comparison.runs,
        price=comparison.price, hours=any(t["gpu_hours"] for t in totals),
        paid=any(t["endpoints"] for t in totals), guessed=any(any(r["expected"]) for r in rows),
    )  # fmt: skip
    return Section("time", "Time and cost", html, {"stages": rows, "totals": totals})


def total(run: Run, price: float | None) -> dict[str, Any]:
    """A run's sums; GPU-hours are of all GPUs of the machines while stages ran on them."""
    manifests = [stage.manifest for stage in run.stages.values()]
    seconds = sum(float(m.get("seconds") or 0) for m in manifests)
    hours = sum(float(m.get("seconds") or 0) * float(m.get("gpus") or 0) for m in manifests) / 3600
    endpoints = sum(_endpoints(m) for m in manifests)
    cost = None if price is None and not endpoints else hours * (price or 0) + endpoints
    return {"run": run.label, "css": run.css, "seconds": seconds, "gpu_hours": hours,
            "endpoints": endpoints, "cost": cost,
            "generated": sum(_generated(m) for m in manifests)}  # fmt: skip


def _endpoints(manifest: Mapping[str, Any]) -> float:
    judges = (manifest.get("details") or {}).get("judges") or []
    return sum(float(judge.get("cost") or 0) for judge in judges)


def _generated(manifest: Mapping[str, Any]) -> float:
    """Tokens that engines and judges wrote."""
    judges = (manifest.get("details") or {}).get("judges") or []
    metrics = manifest.get("metrics") or {}
    return float(metrics.get("generated_tokens") or 0) + sum(
        float(judge.get("generated_tokens") or 0) for judge in judges
    )
