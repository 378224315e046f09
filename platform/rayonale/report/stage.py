"""The `report` stage: a page and its numbers, from any stages.

<out>/report.html   one file, nothing loaded from anywhere
<out>/report.json   the numbers that the page shows
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field

from rayonale import storage
from rayonale.report import estimates
from rayonale.report.evidence import Evidence, Limits, gather
from rayonale.report.page import Section, page
from rayonale.report.sections import ORDER, sections
from rayonale.stages import Reads, Settings, Stage, StageContext, StageResult

HTML, JSON = "report.html", "report.json"


class ReportSettings(Settings):
    """Settings of the `report` stage.

    Attributes:
        title: heading of the page; the default is the recipe's name.
        description: a paragraph below it.
        pairs, answers: how many pairs and prompts can be paged through.
        text_characters: longer texts are cut, and say so.
    """

    title: str | None = None
    description: str = ""
    pairs: int = Field(60, ge=0, le=2_000)
    answers: int = Field(60, ge=0, le=2_000)
    text_characters: int = Field(3_000, gt=0)


def run(context: StageContext, settings: ReportSettings) -> StageResult:
    """Write the page."""
    limits = Limits(pairs=settings.pairs, answers=settings.answers, text=settings.text_characters)
    evidence = gather(context.inputs["stages"], settings.title or default_title(context), limits)
    shown = sections(evidence)
    html = page(evidence.title, settings.description, shown, made(evidence))
    where = storage.join(context.out, HTML)
    storage.write_bytes(where, html.encode("utf-8", "replace"))
    storage.write_json(storage.join(context.out, JSON), numbers(evidence, shown))
    return StageResult(
        metrics={"bytes": float(len(html)), "sections": float(len(shown))},
        details={"report": where, "sections": [section.id for section in shown]},
    )


def default_title(context: StageContext) -> str:
    """The recipe's name, which is the folder that holds its stages: <recipe>/<stage>/<hash>."""
    *_, recipe, stage, _ = ["", "", *context.out.rstrip("/").split("/")]
    return recipe if recipe and stage == context.name else context.name


def numbers(evidence: Evidence, shown: list[Section]) -> dict[str, Any]:
    """What report.json holds: every section's numbers by its id."""
    return {
        "title": evidence.title,
        "stages": [output.name for output in evidence.outputs],
        "sections": {s.id: s.numbers for s in shown if s.numbers is not None},
    }


def made(evidence: Evidence) -> str:
    """The page's last line."""
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"Written {when} from {len(evidence.outputs)} stages by rayonale."


def look(_: ReportSettings) -> Mapping[str, str]:
    """Hash of the page's templates, style and script: a changed look is a changed report."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".jinja", ".css", ".js"):
            digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return {"look": digest.hexdigest()[:16]}


STAGE = Stage(
    kind="report",
    settings=ReportSettings,
    run=run,
    reads={"stages": Reads("any", many=True)},
    gives=(),
    sources=lambda settings: [f"module:rayonale.report.sections.{name}" for name in ORDER],
    external_inputs=look,
    estimate=estimates.report,
)
