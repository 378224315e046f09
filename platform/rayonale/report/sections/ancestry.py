"""The lineage: what every stage was made from, down to raw files and prompts, and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from markupsafe import Markup

from rayonale.report.evidence import Evidence
from rayonale.report.page import Section, render
from rayonale.report.text import anchor, visible
from rayonale.stages import StageOutput

_BOX, _GAP_X, _GAP_Y, _HEIGHT = 150, 18, 40, 40


def section(evidence: Evidence) -> Section | None:
    """A drawing of the stages and a card for each."""
    if not evidence.outputs:
        return None
    known = {output.name for output in evidence.outputs}
    rows = [_stage(evidence, output) for output in evidence.outputs]
    html = render("sections/ancestry.html.jinja", rows=rows, drawing=drawing(evidence), known=known)
    keys = ("stage", "kind", "reads", "fingerprint", "code_version", "run_id", "registered", "raw")
    numbers = [
        {k: row[k] for k in keys}
        | {"prompts": {name: prompt["fingerprint"] for name, prompt in row["prompts"].items()}}
        for row in rows
    ]
    return Section("lineage", "Lineage", html, numbers)


def _stage(evidence: Evidence, output: StageOutput) -> dict[str, Any]:
    manifest = output.manifest
    return {
        "stage": output.name,
        "kind": output.kind,
        "uri": output.uri,
        "reads": evidence.reads(output),
        "fingerprint": output.fingerprint,
        "code_version": manifest.get("code_version"),
        "run_id": manifest.get("mlflow_run_id"),
        "registered": manifest.get("registered_model"),
        "prompts": manifest.get("prompts") or {},
        "raw": manifest.get("raw_inputs") or [],
        "settings": visible(_yaml(manifest.get("settings") or {}), 6_000),
    }


def _yaml(settings: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True, width=90).strip()


def _drawn(evidence: Evidence) -> list[StageOutput]:
    """Stages that the drawing has: of a sweep only the cells that stand for the others."""
    return [output for output in evidence.outputs if output.name not in evidence.hidden]


def layers(evidence: Evidence) -> list[list[str]]:
    """Stages by their distance from the raw data, so that lines only go down."""
    depth: dict[str, int] = {}
    for output in _drawn(evidence):  # ancestors come first
        above = [n for names in evidence.reads(output).values() for n in names if n in depth]
        depth[output.name] = 1 + max((depth[name] for name in above), default=-1)
    found: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for name, at in depth.items():
        found[at].append(name)
    return found


def direct_reads(evidence: Evidence) -> dict[str, list[str]]:
    """What each stage reads, without what another of its inputs was made from."""
    reads: dict[str, list[str]] = {}
    above: dict[str, set[str]] = {}  # all ancestors
    for output in evidence.outputs:  # ancestors come first
        known = [n for names in evidence.reads(output).values() for n in names if n in above]
        implied = set().union(*(above[name] for name in known))
        reads[output.name] = [name for name in dict.fromkeys(known) if name not in implied]
        above[output.name] = implied | set(known)
    return reads


def drawing(evidence: Evidence) -> Markup:
    """The stages as boxes, top to bottom, with lines from what each reads.

    A line that a longer way implies is left out, else raw pairs would be tied to everything.
    """
    rows = layers(evidence)
    width = max(len(row) for row in rows) * (_BOX + _GAP_X) + _GAP_X
    height = len(rows) * (_HEIGHT + _GAP_Y) - _GAP_Y + 20
    place: dict[str, tuple[float, float]] = {}
    for at, row in enumerate(rows):
        left = (width - len(row) * (_BOX + _GAP_X) + _GAP_X) / 2
        for number, name in enumerate(row):
            place[name] = (left + number * (_BOX + _GAP_X), 10 + at * (_HEIGHT + _GAP_Y))
    kept = direct_reads(evidence)
    lines: list[Markup] = []
    boxes: list[Markup] = []
    for output in _drawn(evidence):
        x, y = place[output.name]
        lines += [_line(place[name], (x, y)) for name in kept[output.name] if name in place]
        boxes.append(
            Markup('<a href="#{anchor}"><rect class="node {css}" x="{x}" y="{y}" width="{w}" '
                   'height="{h}" rx="6"/><text class="name" x="{tx}" y="{ty}">{name}</text>'
                   '<text class="kind" x="{tx}" y="{ky}">{kind}</text></a>').format(
                name=output.name, anchor=anchor(output.name), kind=output.kind,
                css=evidence.colour(output.name), x=x, y=y,
                w=_BOX, h=_HEIGHT, tx=x + 10, ty=y + 17, ky=y + 32))  # fmt: skip
    told = "; ".join(
        f"{o.name} reads {', '.join(n for names in evidence.reads(o).values() for n in names)}"
        for o in evidence.outputs
        if evidence.reads(o)
    )
    return Markup(
        '<div class="scroll"><svg class="graph" width="{w}" height="{h}" viewBox="0 0 {w} {h}" '
        'role="img" aria-label="{told}">{lines}{boxes}</svg></div>'
    ).format(w=round(width), h=height, told=told, lines=Markup("").join(lines),
             boxes=Markup("").join(boxes))  # fmt: skip


def _line(above: tuple[float, float], below: tuple[float, float]) -> Markup:
    x1, y1 = above[0] + _BOX / 2, above[1] + _HEIGHT
    x2, y2 = below[0] + _BOX / 2, below[1]
    bend = min(40.0, (y2 - y1) / 2)
    return Markup('<path class="edge" d="M{} {}C{} {} {} {} {} {}"/>').format(
        x1, y1, x1, y1 + bend, x2, y2 - bend, x2, y2
    )
