"""Code, raw data, prompts and models that differ, by their fingerprints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rayonale.report.compare.runs import Aligned, Comparison
from rayonale.report.page import Section, render

_SHORT = 12  # characters of a hash that are shown
ABSENT = "–"


def section(comparison: Comparison) -> Section:
    """What differs in a table; a sentence where nothing does."""
    rows = [row for stage in comparison.stages for row in differences(stage)]
    kinds = {row["what"].partition(" ")[0] for row in rows}
    html = render(
        "compare/provenance.html.jinja", rows=rows, runs=comparison.runs,
        same=[told for told in ("code", "raw", "prompt", "model") if told not in kinds],
    )  # fmt: skip
    return Section("fingerprints", "Code and data that differ", html, rows)


def differences(stage: Aligned) -> list[dict[str, Any]]:
    """[{"stage":, "what":, "values": [short hash a run]}] among the runs that have the stage."""
    present = [output is not None for output in stage.outputs]
    if sum(present) < 2 or stage.kind == "report":
        return []
    found = [dict(_prints(manifest)) if manifest else {} for manifest in stage.manifests()]
    rows = []
    for what in dict.fromkeys(what for prints in found for what in prints):
        values = [prints.get(what, ABSENT) for prints in found]
        if len({v for v, there in zip(values, present, strict=True) if there}) > 1:
            told = [value[:_SHORT] for value in values]
            rows.append({"stage": stage.name, "what": what, "values": told})
    return rows


def _prints(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a stage's result depends on beside settings and stages before it."""
    yield "code", str(manifest.get("code_version"))
    for file in manifest.get("raw_inputs") or []:
        name = str(file["uri"]).rsplit("/", 1)[-1]
        yield f"raw file {name}", str(file.get("sha256"))
    for name, prompt in (manifest.get("prompts") or {}).items():
        yield f"prompt {name}", str(prompt["fingerprint"])
    for name, seen in (manifest.get("external") or {}).items():
        if not name.startswith("look"):
            kind, _, rest = name.partition(":")
            yield f"{kind} {rest}".strip(), str(seen)
