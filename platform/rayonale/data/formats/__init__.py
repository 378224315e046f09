"""Data formats: one file each. To add one, write the file and put its FORMAT in the list below."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rayonale.data.formats import (
    autoj,
    biggen_bench,
    feedback_collection,
    hh_rlhf,
    hhh_alignment,
    implicit_prompt,
    kto,
    llmbar,
    llmbar_judged,
    mt_bench_human,
    orca,
    pandalm,
    preference_collection,
    prometheus_eval,
    reward_bench,
    scored_list,
    sharegpt,
    tinyworld,
    tldr,
    trl_conversational,
    trl_standard,
    ultrafeedback,
    webgpt,
)
from rayonale.data.formats.layout import Format

FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT
    for module in (
        hh_rlhf,
        ultrafeedback,
        orca,
        trl_conversational,
        trl_standard,
        implicit_prompt,
        sharegpt,
        kto,
        scored_list,
        tldr,
        llmbar,
        webgpt,
        tinyworld,
        feedback_collection,
        preference_collection,
        autoj,
        biggen_bench,
        hhh_alignment,
        llmbar_judged,
        mt_bench_human,
        pandalm,
        prometheus_eval,
        reward_bench,
    )
}


def get(name: str) -> Format:
    """A format by name.

    Raises:
        ValueError: unknown name; the message lists the choices.
    """
    if name not in FORMATS:
        raise ValueError(f"unknown format {name!r}; choices: auto, {', '.join(sorted(FORMATS))}")
    return FORMATS[name]


def detect(records: Iterable[Any], where: str) -> Format:
    """The one format that some records look like.

    Args:
        records: the first records of a source; those that look like nothing are passed over (a
            bad row does not hide the format of the others).
        where: the source, for messages.

    Raises:
        ValueError: no format fits, or more than one does; the message lists the candidates.
    """
    fits: set[str] | None = None
    first: Any = None
    for record in records:
        first = record if first is None else first
        if not isinstance(record, dict):
            continue
        found = {name for name, layout in FORMATS.items() if layout.matches(record)}
        if found:
            fits = found if fits is None else fits & found
    if fits and len(fits) == 1:
        return FORMATS[fits.pop()]
    layouts = "\n".join(f"  {name}: {layout.expects}" for name, layout in FORMATS.items())
    seen = f"fields {', '.join(map(str, first))}" if isinstance(first, dict) else "no JSON object"
    if not fits:
        why = "rows of different formats" if fits is not None else f"{seen}: no known format"
        raise ValueError(
            f"{where}: found {why}; set `format` (and `fields` to rename fields) to one of:\n"
            f"{layouts}"
        )
    raise ValueError(
        f"{where}: found {seen}, which fits several formats: {', '.join(sorted(fits))}; set "
        f"`format` to one of them"
    )
