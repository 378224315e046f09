"""Unlearning: how likely good rejected responses stay while policies are trained."""

from __future__ import annotations

from typing import Any

from rayonale.report import charts
from rayonale.report.evidence import Evidence
from rayonale.report.page import Section, render
from rayonale.stages import StageOutput

PREFIX = "watch/"


def section(evidence: Evidence) -> Section | None:
    """A line for each policy and each set of watched rows; None when nothing was watched."""
    lines = [line for stage in evidence.of_kind("train") for line in lines_of(stage)]
    if not lines:
        return None
    several = {line["rows"] for line in lines if line["policy"] == lines[-1]["policy"]}
    series = [
        charts.Series(
            f"{line['policy']}, {line['rows']}" if len(several) > 1 else line["policy"],
            evidence.colour(line["policy"]), line["steps"], line["logprobs"], marks=True,
            dashed=number > 0,
        )
        for policy in dict.fromkeys(line["policy"] for line in lines)
        for number, line in enumerate(one for one in lines if one["policy"] == policy)
    ]  # fmt: skip
    plot = charts.lines(
        "Rejected responses with a high score", series, x_label="optimiser steps",
        y_label="mean log-probability (nats)",
        note="Before the first step all lines with one prompt begin where the base policy is.",
    )  # fmt: skip
    html = render("sections/unlearning.html.jinja", plot=charts.grid([plot]), rows=lines,
                  colours=evidence.colours)  # fmt: skip
    return Section("unlearning", "Unlearning", html, lines)


def lines_of(stage: StageOutput) -> list[dict[str, Any]]:
    """What one training watched: steps and mean log-probabilities, by the rows' stage."""
    curves = stage.manifest.get("details", {}).get("curves") or {}
    told = stage.manifest.get("settings", {}).get("watched") or {}
    steps = curves.get(f"{PREFIX}steps")
    return [
        {
            "policy": stage.name, "rows": name.removeprefix(PREFIX), "steps": steps,
            "logprobs": values, "min_score": told.get("min_score"), "split": told.get("split"),
            "base": values[0], "end": values[-1], "change": values[-1] - values[0],
        }
        for name, values in curves.items()
        if name.startswith(PREFIX) and name != f"{PREFIX}steps" and steps
    ]  # fmt: skip
