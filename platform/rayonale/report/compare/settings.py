"""Settings that differ, and only those, by stage; and what stages read that differs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rayonale.report.compare.runs import Aligned, Comparison
from rayonale.report.page import Section, render
from rayonale.report.text import visible

ABSENT = "–"  # the run has no such stage
UNSET = "not a setting there"


def section(comparison: Comparison) -> Section:
    """A table a stage; a sentence where nothing differs."""
    tables = [
        {"stage": stage.name, "kind": stage.kind, "rows": rows}
        for stage in comparison.stages
        if stage.kind != "report" and (rows := differences(stage))
    ]
    html = render(
        "compare/settings.html.jinja", tables=tables, runs=comparison.runs,
        shared=sum(None not in stage.outputs for stage in comparison.stages),
    )  # fmt: skip
    return Section("settings", "Settings that differ", html, tables)


def differences(stage: Aligned) -> list[dict[str, Any]]:
    """[{"key":, "values": [text a run]}] of what differs among the runs that have the stage."""
    present = [output is not None for output in stage.outputs]
    if sum(present) < 2:
        return []
    found = [dict(_told(manifest)) if manifest else {} for manifest in stage.manifests()]
    rows = []
    for key in dict.fromkeys(key for settings in found for key in settings):
        values = [
            settings.get(key, UNSET) if there else ABSENT
            for settings, there in zip(found, present, strict=True)
        ]
        if len({v for v, there in zip(values, present, strict=True) if there}) > 1:
            rows.append({"key": key, "values": [visible(value, 300) for value in values]})
    return rows


def _told(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from flat(manifest.get("settings") or {})
    for role, read in (manifest.get("inputs") or {}).items():
        several = read if isinstance(read, list) else [read]
        yield f"reads.{role}", ", ".join(str(one["name"]) for one in several if one)


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted keys and text: `loss.beta`, "0.1"."""
    for key, value in settings.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{path}.")
        elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
            yield from flat({str(at): one for at, one in enumerate(value)}, f"{path}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield path, text
