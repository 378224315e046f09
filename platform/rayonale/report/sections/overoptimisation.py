"""Where a reward model stops being right about a policy: true score against oracle reward.

policies of one loss, trained for more and more steps ─ both judged ─► one line, in that order
"""

from __future__ import annotations

from typing import Any

from rayonale.evaluate.scorers import SCORERS
from rayonale.report import charts
from rayonale.report.evidence import Evidence
from rayonale.report.page import Section, render
from rayonale.stages import StageOutput


def section(evidence: Evidence) -> Section | None:
    """Lines and a table; None unless an oracle and an exact scorer judged the same policies."""
    rows = [row for stage in evidence.of_kind("win_rates") for row in both_scores(evidence, stage)]
    if not rows:
        return None
    by_loss: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["steps"] or 0):
        by_loss.setdefault(row["loss"], []).append(row)
    series = [
        charts.Series(
            loss, f"s{1 + number % 8}", [row["oracle"] for row in found],
            [row["true"] for row in found], marks=True,
        )
        for number, (loss, found) in enumerate(by_loss.items())
    ]  # fmt: skip
    plot = charts.lines(
        "True score against oracle reward", series, x_label="mean oracle reward",
        y_label="mean true score",
        note="One line a loss, its policies joined in the order of training steps. Where it goes "
        "right and down, the oracle is over-optimised: it likes more what is worse.",
    )  # fmt: skip
    html = render(
        "sections/overoptimisation.html.jinja", plot=charts.grid([plot]), rows=rows,
        colours=evidence.colours,
    )  # fmt: skip
    return Section("overoptimisation", "Oracle and truth", html, rows)


def _with_truth(entry: dict[str, Any]) -> bool:
    return entry["scorer"] in SCORERS and SCORERS[entry["scorer"]].exact


def both_scores(evidence: Evidence, stage: StageOutput) -> list[dict[str, Any]]:
    """Policies with their mean true score and mean oracle reward, and the steps of training."""
    details = stage.manifest.get("details", {})
    oracles = {e["judge"] for e in details.get("judges", []) if e["kind"] == "oracle"}
    true: dict[str, float] = {}
    seen: dict[str, float] = {}
    for entry in details.get("scores", []):
        if entry["attribute"] == "overall":
            if _with_truth(entry):
                true[entry["policy"]] = entry["value"]
            elif entry["scorer"] in oracles:
                seen[entry["policy"]] = entry["value"]
    trained = {output.name: output.manifest for output in evidence.of_kind("train")}
    return [
        {
            "policy": policy,
            "stage": stage.name,
            "true": true[policy],
            "oracle": seen[policy],
            "loss": _loss(trained.get(policy)),
            "steps": (trained.get(policy) or {}).get("metrics", {}).get("chosen_step"),
        }
        for policy in evidence.policies(true)
        if policy in seen
    ]


def _loss(manifest: Any) -> str:
    return str(manifest["settings"]["loss"]["name"]) if manifest else "other texts"
