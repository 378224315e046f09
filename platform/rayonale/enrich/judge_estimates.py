"""What judging and learning from judgements will take; see `rayonale.planning`.

judge               inputs · orders · n completions      rows go on with `judgements`
judge_judgements    their judgements, or their orders    rows go on with ratings or picks
judgement_examples  an example of an input               timed on the sample
curate              pairs of judgements of an input      made of the sample, else assumed

Where a probe judged the sample, its judgements are those of the model that is there: a judge that
is yet to be trained will write others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from rayonale import prompts
from rayonale.enrich.pass_estimates import generation_pass, passed
from rayonale.planning.flow import (
    BYTES_PER_TOKEN,
    SAMPLE_ROWS,
    Estimate,
    Flow,
    Row,
    not_estimated,
    packed_bytes,
)
from rayonale.planning.outlook import Outlook
from rayonale.planning.sizes import CHARS_PER_TOKEN, TURN_TOKENS, Unknown, answer

if TYPE_CHECKING:
    from rayonale.enrich.curated import CurateSettings
    from rayonale.enrich.judgement_examples import JudgementExampleSettings
    from rayonale.enrich.judgement_prompts import Wording
    from rayonale.enrich.judgements import JudgeSettings
    from rayonale.enrich.meta_judgements import MetaJudgeSettings

PAIRS_PER_INPUT = 4.0  # where there are no judgements yet to make any of; assumed
INPUTS_PER_SECOND = 5_000.0  # that pairs or examples are made of, there; assumed
VERDICT_TOKENS = 6.0  # of a judgement without a rationale, end of turn included; assumed
_SIZED = 64  # judgements whose tokens are counted


def judge(outlook: Outlook, settings: JudgeSettings) -> Estimate:
    """`n` judgements of each wanted input in each of its orders; the others are left out."""
    from rayonale.enrich.judgements import task_of

    flow, task = outlook.flow(), task_of(settings)
    there = flow.of(settings.splits)
    asked = max(0.0, there - settings.skip)
    asked = min(asked, settings.limit) if settings.limit else asked
    wanted = Flow(
        rows={s: n * asked / there for s, n in flow.rows.items() if s in settings.splits and there},
        bytes_per_row=flow.bytes_per_row,
    )
    rows = [row for row in flow.sample if len(row.get("responses") or ()) in (1, 2)]
    words, shown = task.wording, _shown(flow, settings.orders)
    orders = _orders(words, flow, rows)
    names = ("engine", "sampling", "pointwise", "pairwise", "show", "orders", "n", "output",
             "expected")  # fmt: skip
    try:
        found = generation_pass(
            outlook, settings, task, replace(flow, sample=rows), per_row=settings.n * orders,
            template=words.pairwise if len(shown) > 2 else words.pointwise, shown=shown,
            names=names,
            counted=lambda metrics: metrics["judgements"], rows=asked, asked=asked,
            expected=_as_given(outlook, settings, flow, rows),
            measured_length=not isinstance(outlook.reads.get("model"), Flow),
        )  # fmt: skip
    except Unknown as error:
        return not_estimated(str(error), wanted, rows_in=asked)
    count = asked * settings.n * orders
    tokens = {"judge_prompt": found.tokens["prompt"] / count, "judgement": found.completion_tokens}
    left = replace(wanted, sample=found.rates.rows, tokens=tokens)
    return passed(outlook, found, wanted, left, settings.splits, assumed_keep=1.0)


def _orders(wording: Wording, flow: Flow, rows: Sequence[Row]) -> float:
    """Orders in which an input is judged: counted on the sample, else by the responses told."""
    if rows:
        return fmean(len(wording.orders_of(row)) for row in rows)
    two = {"responses": [[]] * round(flow.texts.get("responses", 1.0)), "id": ""}
    return float(len(wording.orders_of(two)))


def _shown(flow: Flow, orders: str) -> tuple[str, ...]:
    """What a judge's prompt shows, where there is no sample to render."""
    count = 1 if orders == "apart" else round(flow.texts.get("responses", 1.0))
    return ("prompt", *["response"] * count)


def _as_given(
    outlook: Outlook, settings: JudgeSettings, flow: Flow, rows: Sequence[Row]
) -> tuple[float, str] | None:
    """Length of the judgements that come with the data, for a judge that learns from them."""
    if not rows and "judgement" in flow.tokens:
        length = flow.tokens["judgement"]
        return length, f"judgements of {length:.0f} tokens, as those of the data, given"
    sizer = outlook.session.sizes.sizer(
        outlook.model(settings.model), settings.engine.chat_template
    )
    texts = [(row, each["text"]) for row in rows for each in row.get("judgements") or ()]
    if not texts:
        return None
    length = fmean(sizer.response(row["prompt"], answer(text)) for row, text in texts[:_SIZED])
    return length, f"judgements of {length:.0f} tokens, as those of the data"


def judge_judgements(outlook: Outlook, settings: MetaJudgeSettings) -> Estimate:
    """A rating for every readable judgement, or a pick for every order."""
    from rayonale.enrich.meta_judgements import task_of

    flow, task = outlook.flow(), task_of(settings)
    asked = flow.of(settings.splits)
    rows = [row for row in flow.sample if row.get("judgements")]
    if not rows:
        told = "there are no judgements yet to tell how many are asked about"
        return not_estimated(told, flow, rows_in=flow.total)
    made = [task.requests(row) for row in rows]
    per_row = fmean(len(each) if isinstance(each, list) else 0 for each in made)
    without = ("ratings_unreadable",) if settings.ask == "rate" else ()

    def change(row: Row) -> Row:
        return {name: value for name, value in row.items() if name not in without}

    try:
        found = generation_pass(
            outlook, settings, task, replace(flow, sample=rows), per_row=per_row,
            template=prompts.source(settings.template_name), shown=("prompt",),
            names=("engine", "sampling", "template", "ask", "candidates"),
            counted=lambda metrics: sum(
                metrics.get(f"judgements_{name}", 0.0) for name in ("rated", "unreadable", "picked")
            ),
            change=change, without=without, asked=asked,
        )  # fmt: skip
    except Unknown as error:
        return not_estimated(str(error), flow, rows_in=flow.total)
    left = replace(flow, sample=found.rates.rows or flow.sample)
    return passed(outlook, found, flow, left, settings.splits, assumed_keep=1.0)


def judgement_examples(outlook: Outlook, settings: JudgementExampleSettings) -> Estimate:
    """At most an example of each input: timed on the sample."""
    from rayonale.data.estimates import timed_rows
    from rayonale.enrich.judgement_examples import examples_of
    from rayonale.enrich.judgement_prompts import wording

    flow = outlook.flow()
    if not flow.sample:
        return _examples_told(outlook, settings, flow)
    words = wording(settings.pointwise, settings.pairwise, show=settings.show, orders="ab")
    flow = replace(flow, tokens={})
    return timed_rows(outlook, flow, lambda row: examples_of(row, settings, words))


def _examples_told(outlook: Outlook, settings: JudgementExampleSettings, flow: Flow) -> Estimate:
    """An example of every input, of the lengths that are told of data that is not here."""
    known = dict(flow.tokens)
    if "judge_prompt" not in known and {"prompt", "response"} <= known.keys():
        shown = _shown(flow, "ab")
        template = prompts.source(settings.pairwise if len(shown) > 2 else settings.pointwise)
        texts = sum(known[each] for each in shown)
        known["judge_prompt"] = len(template) / CHARS_PER_TOKEN + TURN_TOKENS + texts
    if not {"judge_prompt", "judgement"} <= known.keys():
        return not_estimated("there are no rows yet to time it on", flow, rows_in=flow.total)
    chosen = known["judgement"] if settings.rationale else VERDICT_TOKENS
    tokens = {"prompt": known["judge_prompt"], "chosen": chosen}
    size = flow.total * sum(tokens.values()) * BYTES_PER_TOKEN
    left = Flow(rows=flow.rows, tokens=tokens, bytes_per_row=size / max(1.0, flow.total))
    return Estimate(
        rows_in=flow.total, rows_out=flow.total, parts={"rows": flow.total / INPUTS_PER_SECOND},
        bytes=size, peak_bytes=size, flow=left,
        basis=("an example of every input and 5,000 a second assumed",),
    )  # fmt: skip


def curate(outlook: Outlook, settings: CurateSettings) -> Estimate:
    """Pairs that the rule makes of the sample's judgements; of none, so many an input assumed."""
    from rayonale.enrich.curated import pairs_of
    from rayonale.enrich.curation import NoPairs

    naive = {row["id"]: row for row in _samples(outlook.reads.get("naive"))}

    def pairs(row: Row) -> list[Row]:
        try:
            return pairs_of(row, settings, naive.get(row["id"]) if naive else None)
        except NoPairs:
            return []

    left, inputs, seconds, basis = _curated(outlook.reads["rows"], settings, pairs)
    size = left.total * left.bytes_per_row
    return Estimate(
        rows_in=inputs, rows_out=left.total, parts={"pairs": seconds}, bytes=size, peak_bytes=size,
        basis=(basis,), flow=left,
    )  # fmt: skip


def _samples(flow: Flow | None) -> Sequence[Row]:
    return flow.sample if flow is not None else ()


def _curated(
    flows: Sequence[Flow], settings: CurateSettings, pairs: Callable[[Row], list[Row]]
) -> tuple[Flow, float, float, str]:
    """What all judge stages leave together: pairs, inputs read, seconds, and who says so."""
    inputs = sum(flow.total for flow in flows)
    share = min(1.0, settings.limit / inputs) if settings.limit and inputs else 1.0
    rows: dict[str, float] = {}
    sample: list[Row] = []
    seconds, tried = 0.0, 0
    for flow in flows:
        judged = [row for row in flow.sample if row.get("judgements")]
        started = time.perf_counter()
        made = [pair for row in judged for pair in pairs(row)]
        per_input = PAIRS_PER_INPUT
        if judged:
            per_input = len(made) / len(judged)
            per_row = (time.perf_counter() - started) / len(judged)
        else:
            per_row = 1 / INPUTS_PER_SECOND
        seconds, tried = seconds + share * flow.total * per_row, tried + len(judged)
        sample += made
        for split, count in flow.rows.items():
            rows[split] = rows.get(split, 0.0) + share * count * per_input
    tokens = {} if sample else _pair_tokens(flows[0].tokens if flows else {})
    per_pair = packed_bytes(sample) or sum(tokens.values()) * BYTES_PER_TOKEN
    basis = f"pairs made of {tried} judged inputs, and timed"
    if not tried:
        basis = f"{PAIRS_PER_INPUT:g} pairs an input assumed"
    left = Flow(rows=rows, sample=sample[:SAMPLE_ROWS], tokens=tokens, bytes_per_row=per_pair)
    return left, inputs * share, seconds, basis


def _pair_tokens(tokens: Mapping[str, float]) -> dict[str, float]:
    """A pair is a judge's prompt and two judgements."""
    if "judgement" not in tokens:
        return {}
    length = tokens["judgement"]
    return {"prompt": tokens["judge_prompt"], "chosen": length, "rejected": length}
