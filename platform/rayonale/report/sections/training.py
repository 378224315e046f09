"""Training curves of every policy: loss, validation loss, accuracy and margin of rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayonale.report import charts
from rayonale.report.claims import Trained
from rayonale.report.evidence import Evidence
from rayonale.report.page import Section, render
from rayonale.report.sections.headline import trained

# (title, names that the curve may have, axis label, a line for orientation)
_CURVES: tuple[tuple[str, tuple[str, ...], str, float | None], ...] = (
    ("Training loss", ("loss",), "loss (nats)", None),
    ("Validation loss", ("validation/loss",), "loss (nats)", None),
    ("Pairs that the reward orders rightly", ("rewards/accuracy",), "share", 0.5),
    ("Reward margin, chosen over rejected", ("rewards/margin",), "reward", 0.0),
    ("Preference term", ("terms/preference",), "nats", None),
    ("Rationale term", ("terms/rationale",), "nats", None),
    ("Distillation term", ("terms/distillation",), "squared reward", None),
    ("Log-probability of chosen responses", ("logprob/chosen",), "nats", None),
    ("Log-probability of rejected responses", ("logprob/rejected",), "nats", None),
    ("Gradient norm before clipping", ("grad_norm",), "norm", None),
    ("Learning rate", ("learning_rate",), "rate", None),
)
# Steps over which curves are averaged.
SMOOTH = 9
# Losses that are no likelihoods are on another scale and get a plot of their own.
_LOSSES = ("Training loss", "Validation loss")


def section(evidence: Evidence) -> Section | None:
    """Plots of what the train stages recorded; None when there was no training."""
    stages = evidence.of_kind("train")
    if not stages:
        return None
    curves = {s.name: s.manifest.get("details", {}).get("curves") or {} for s in stages}
    facts = trained(evidence)
    figures = []
    for title, names, label, level in _CURVES:
        for suffix, policies in _families(title, curves, facts):
            series = [p for one in policies for p in _series(evidence, one, curves[one], names)]
            figures.append(
                charts.lines(
                    title + suffix, series, x_label="optimiser step", y_label=label, level=level
                )
            )
    rows = [
        {
            "policy": stage.name,
            "css": evidence.colour(stage.name),
            "loss": facts[stage.name].loss,
            "pairs": facts[stage.name].pairs,
            "steps": _steps(curves[stage.name]),
            "validation_loss": _last(curves[stage.name], "validation/loss"),
            "validation_accuracy": _last(curves[stage.name], "validation/rewards/accuracy"),
            "rate": stage.manifest.get("settings", {}).get("learning_rate"),
            "seconds": stage.manifest.get("seconds"),
            "options": _options(stage.manifest),
        }
        for stage in stages
    ]
    html = render(
        "sections/training.html.jinja", plots=charts.grid(figures), rows=rows, smooth=SMOOTH
    )
    return Section("training", "Training", html, rows)


def _series(
    evidence: Evidence, policy: str, curves: Mapping[str, Any], names: Sequence[str]
) -> list[charts.Series]:
    """The first of the names that a policy's curves have."""
    for name in names:
        steps = curves.get("validation/step" if name.startswith("validation/") else "step")
        values = curves.get(name)
        if not steps or not values or len(steps) != len(values):
            continue
        if name.startswith("validation/") and len(steps) < 2:
            continue  # a single point is told in the table
        marks = name.startswith("validation/")
        if not marks and name != "learning_rate":
            values = smoothed(values, curves.get("tokens"))
        return [charts.Series(policy, evidence.colour(policy), steps, values, marks=marks)]
    return []


def smoothed(
    values: Sequence[float | None], weights: Sequence[float] | None = None, window: int = SMOOTH
) -> list[float | None]:
    """Running mean over the `window` nearest steps (fewer at the ends); gaps stay gaps.

    Short curves (under four windows) are left as they are.

    Args:
        weights: how much each step counts: the last batch of an epoch may be a small one.
    """
    if len(values) < 4 * window:
        return list(values)
    if weights is None or len(weights) != len(values):
        weights = [1.0] * len(values)
    found: list[float | None] = []
    for at, value in enumerate(values):
        near = range(max(0, at - window // 2), min(len(values), at + window // 2 + 1))
        known = [(v, weights[i]) for i in near if (v := values[i]) is not None]
        total = sum(weight for _, weight in known)
        mean = sum(v * weight for v, weight in known) / total if total else None
        found.append(mean if value is not None else None)
    return found


def _families(
    title: str, curves: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Trained]
) -> list[tuple[str, list[str]]]:
    """(suffix of the title, policies) of the plots that a curve needs."""
    policies = list(curves)
    if title.endswith(" term"):  # of a loss with one term it would be the loss again
        return [("", [p for p in policies if sum(n.startswith("terms/") for n in curves[p]) > 1])]
    sft = [policy for policy in policies if facts[policy].loss == "sft"]
    other = [policy for policy in policies if policy not in sft]
    if title not in _LOSSES or not sft or not other:
        return [("", list(policies))]
    return [(", supervised", sft), (", preferences", other)]


def _steps(curves: Mapping[str, Any]) -> int | None:
    steps = curves.get("step")
    return int(steps[-1]) + 1 if steps else None


def _last(curves: Mapping[str, Any], name: str) -> float | None:
    """The last value of a curve."""
    values = [value for value in curves.get(name) or [] if value is not None]
    return float(values[-1]) if values else None


def _options(manifest: Mapping[str, Any]) -> str:
    """The loss's options: `beta 0.1, gamma 2`."""
    loss = manifest.get("settings", {}).get("loss")
    if not isinstance(loss, dict):
        return ""
    return ", ".join(f"{k} {v}" for k, v in loss.items() if k != "name" and v is not None)
