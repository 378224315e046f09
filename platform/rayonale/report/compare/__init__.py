"""One page that sets runs side by side: what differs in them, and what came of it.

    folders ─ runs.py ─► runs, stages aligned by name ─► sections, one file each ─► page.html

Each section has `section(comparison) -> Section | None`; None leaves it out.
"""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import import_module

from rayonale.report.compare.runs import Comparison
from rayonale.report.page import Section, page

ORDER = ("overview", "settings", "results", "curves", "answers", "provenance", "costs")


def sections(comparison: Comparison) -> list[Section]:
    """Every section that has something to show."""
    found = (import_module(f"{__name__}.{name}").section(comparison) for name in ORDER)
    return [section for section in found if section is not None]


def compare(comparison: Comparison, title: str | None = None) -> str:
    """The page, as HTML."""
    runs = comparison.runs
    names = list(dict.fromkeys(run.recipe for run in runs))
    told = title or f"{len(runs)} runs of {' and '.join(names)}"
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    made = f"Written {when} from {len(runs)} runs by rayonale."
    return page(told, "", sections(comparison), made)
