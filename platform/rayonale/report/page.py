"""Puts sections together into one file that needs nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rayonale.report import text

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes:
        id: anchor, letters and '-' only.
        title: its heading.
        html: what it shows, already safe.
        numbers: the same in numbers, for report.json.
        data: name → JSON-able value that the page's script reads (browsable samples).
    """

    id: str
    title: str
    html: Markup
    numbers: Any = None
    data: dict[str, Any] = field(default_factory=dict)


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Templates of the report: everything is escaped, a missing variable is an error."""
    found = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    found.filters |= {
        "percent": text.percent,
        "signed": text.signed,
        "number": text.number,
        "visible": text.visible,
        "duration": text.duration,
        "anchor": text.anchor,
        "judge_label": text.judge_label,
    }
    found.globals["interval"] = text.interval
    return found


def render(name: str, **values: Any) -> Markup:
    """A template of this folder, filled in."""
    return Markup(environment().get_template(name).render(**values))


def page(title: str, subtitle: str, sections: list[Section], made: str) -> str:
    """The whole page.

    Scripts are allowed by the hash of the one that belongs to it, and nothing may be loaded: a
    text that slipped through all escaping could still do nothing.
    """
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment().get_template("page.html.jinja").render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        made=made,
        style=Markup((_FOLDER / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        data={name: text.json_script(v) for s in sections for name, v in s.data.items()},
    )  # fmt: skip
