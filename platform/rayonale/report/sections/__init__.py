"""Sections of the report, in the order of the page. Adding one is one file and one line here.

Each module has `section(evidence) -> Section | None`; None leaves the section out.
"""

from __future__ import annotations

from importlib import import_module

from rayonale.report.evidence import Evidence
from rayonale.report.page import Section

ORDER = (
    "headline",
    "study",
    "comparisons",
    "temperatures",
    "benchmarks",
    "scores",
    "margins",
    "oracles",
    "overoptimisation",
    "noise",
    "training",
    "lengths",
    "rationales",
    "pairs",
    "answers",
    "judges",
    "rejects",
    "timings",
    "ancestry",
)


def sections(evidence: Evidence) -> list[Section]:
    """Every section that has something to show."""
    found = (import_module(f"rayonale.report.sections.{name}").section(evidence) for name in ORDER)
    return [section for section in found if section is not None]
