"""A sample of preference pairs with their rationales, to page through."""

from __future__ import annotations

from typing import Any

from rayonale.report.evidence import Evidence, columns, sample
from rayonale.report.page import Section, render
from rayonale.report.text import conversation, visible
from rayonale.stages import StageOutput

_WANTED = (
    "id", "prompt", "chosen", "rejected", "score_chosen", "score_rejected", "confidence", "split",
    "rationales", "metadata",
)  # fmt: skip


def section(evidence: Evidence) -> Section | None:
    """Pairs of the stage that knows most about them; None when no stage has pairs."""
    stage = richest(evidence)
    if stage is None:
        return None
    rows = sample(stage, evidence.limits.pairs, _WANTED, prefer="rationales")
    if not rows:
        return None
    total = int(stage.manifest.get("rows_out") or len(rows))
    limit = evidence.limits.text
    html = render("sections/pairs.html.jinja", shown=len(rows), total=total, stage=stage.name)
    data = {"pairs": [_card(row, limit) for row in rows]}
    return Section("pairs", "Pairs and rationales", html, {"shown": len(rows)}, data)


def richest(evidence: Evidence) -> StageOutput | None:
    """The stage to show pairs of: graded rationales, else rationales, else plain pairs."""
    for kinds in (("grade_rationales",), ("rationales",), ("ingest", "tinyworld_pairs")):
        for stage in reversed(evidence.of_kind(*kinds)):
            if {"id", "prompt", "chosen", "rejected"} <= set(columns(stage)):
                return stage
    return None


def _card(row: dict[str, Any], limit: int) -> dict[str, Any]:
    """One pair as the page's script wants it: texts only, cut and made visible."""
    facts = [
        f"{label} {row[name]:g}"
        for name, label in (("confidence", "annotator confidence"),)
        if row.get(name) is not None
    ]
    return {
        "id": row["id"],
        "prompt": conversation(row["prompt"], limit),
        "facts": " · ".join([str(row.get("split") or ""), *facts]).strip(" ·"),
        "texts": [
            _text("chosen", row["chosen"], row.get("score_chosen"), limit),
            _text("rejected", row["rejected"], row.get("score_rejected"), limit),
        ],
        "notes": [_note(rationale, limit) for rationale in row.get("rationales") or []],
    }


def _text(label: str, messages: Any, score: float | None, limit: int) -> dict[str, str]:
    told = "" if score is None else f"score {score:g}"
    return {"label": label, "mark": label, "facts": told, "text": conversation(messages, limit)}


def _note(rationale: dict[str, Any], limit: int) -> dict[str, str]:
    grades = rationale.get("grades") or {}
    told = ", ".join(f"{name} {grade}" for name, grade in grades.items() if grade is not None)
    style = visible(rationale.get("style"), 80)
    return {
        "label": f"rationale ({style})" if style else "rationale",
        "facts": told,
        "text": visible(rationale.get("text"), limit),
    }
