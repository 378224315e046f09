"""The estimate that the stages with engines or endpoints of this package share."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rayonale.planning.flow import BYTES_PER_TOKEN, Estimate, Flow, packed_bytes
from rayonale.planning.outlook import Outlook, key_of_read, model_key
from rayonale.planning.passes import Pass, PassEstimate, endpoint_pass, estimate_pass, reading
from rayonale.planning.sizes import rendered

if TYPE_CHECKING:
    from rayonale.enrich.generation import GenerationSettings


def generation_pass(
    outlook: Outlook,
    settings: GenerationSettings,
    task: Any,
    flow: Flow,
    *,
    per_row: float,
    template: str,
    shown: tuple[str, ...],
    names: tuple[str, ...],
    counted: Any,
    needs: str | None = None,
    rows: float | None = None,
    asked: float | None = None,
    **more: Any,
) -> PassEstimate:
    """A pass of a stage of this package: what it asks for each row, how long the prompts are."""
    endpoint = settings.endpoint
    model = outlook.model(settings.model) if endpoint is None else "an/endpoint"  # by characters
    session = outlook.session
    sizes = session.sizes.of(flow, model, settings.engine.chat_template)
    sample = [{**row, "split": settings.splits[0]} for row in flow.sample]
    if needs is not None:
        sample = [row for row in sample if row.get(needs)]
    count = flow.of(settings.splits) if asked is None else asked
    told = {n: v for n, v in settings.model_dump(mode="json").items() if n in names}
    prompt = rendered(
        replace(flow, sample=sample), session.sizes.sizer(model, settings.engine.chat_template),
        sizes, lambda row: _messages(task.requests(row)), template=template, shown=shown,
    )  # fmt: skip
    if endpoint is not None:
        return endpoint_pass(
            outlook, endpoint, count * per_row, prompt_tokens=prompt,
            max_tokens=settings.sampling.max_tokens, expected=more.get("expected"),
        )  # fmt: skip
    read = reading(
        told, model_key(model), lambda m: key_of_read(m, m["settings"]["model"]), counted, per_row
    )
    return estimate_pass(
        outlook,
        Pass(
            model=model, engine=settings.engine, rows=flow.total if rows is None else rows,
            asked=count, per_row=per_row,
            prompt_tokens=prompt, max_tokens=settings.sampling.max_tokens,
            task=task if sample else None, sample=sample, settings=told, read=read, **more,
        ),
    )  # fmt: skip


def _messages(asked: Any) -> list[Any]:
    return [each.messages for each in asked] if isinstance(asked, list) else []


def known_length(name: str, found: PassEstimate) -> dict[str, float]:
    """A text's tokens, where the sample does not hold it."""
    return {} if found.rates.rows else {name: found.completion_tokens}


def passed(
    outlook: Outlook,
    found: PassEstimate,
    flow: Flow,
    left: Flow,
    splits: tuple[str, ...],
    *,
    assumed_keep: float,
) -> Estimate:
    """The estimate of a pass, and what it leaves behind."""
    basis = list(found.basis)
    keep, known = outlook.given("keep"), found.rates.values.get("keep")
    if keep is not None:
        basis.append(f"{keep:.1%} of rows go on, given")
    elif known is not None:
        keep = known
        if known < 1:
            basis.append(f"{known:.1%} of rows go on, measured")
    else:
        keep = assumed_keep
        if keep < 1:
            basis.append(f"{keep:.0%} of rows go on, assumed")
    generated = found.tokens["generated"] * BYTES_PER_TOKEN
    size = (
        packed_bytes(found.rates.rows) * flow.total or flow.bytes_per_row * flow.total + generated
    )
    left = replace(
        left.scaled(keep, splits), bytes_per_row=size / flow.total if flow.total else 0.0
    )
    return Estimate(
        rows_in=flow.total, rows_out=left.total, tokens=found.tokens, parts=found.parts,
        bytes=size, peak_bytes=2 * size, gpus=found.gpus, money=found.money,
        basis=tuple(basis), flow=left,
    )  # fmt: skip
