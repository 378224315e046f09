"""What comparisons will take; see `rayonale.planning`.

win_rates  pairs · (two scores by a scorer │ 2 orders · repeats completions by a judge), or
           distinct answers by an oracle
margins    (1 + policies) · (start + held-out rows · tokens, forward only)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rayonale import prompts
from rayonale.enrich.estimates import forward_rates, tree_tokens
from rayonale.enrich.transcript import prompt_text, response_text
from rayonale.evaluate import scorers
from rayonale.planning.arithmetic import seconds
from rayonale.planning.flow import Estimate, Flow, Row, not_estimated, packed_bytes
from rayonale.planning.outlook import Outlook, key_of_read, model_key
from rayonale.planning.passes import (
    Pass,
    PassEstimate,
    endpoint_pass,
    estimate_pass,
    values_of,
)
from rayonale.planning.rates import Values
from rayonale.planning.sizes import Unknown, rendered
from rayonale.train.trees import REFERENCED

if TYPE_CHECKING:
    from rayonale.evaluate.goal_control import GoalControlSettings
    from rayonale.evaluate.judge_accuracy import JudgeAccuracySettings
    from rayonale.evaluate.judges import EndpointJudge, LlmJudge, PairJudge
    from rayonale.evaluate.margins import MarginSettings
    from rayonale.evaluate.oracle_judge import OracleJudge
    from rayonale.evaluate.reward_accuracy import RewardAccuracySettings
    from rayonale.evaluate.win_rates import WinRateSettings

ROWS_PER_SECOND = 5_000.0  # of stored rewards that are compared; assumed
RESAMPLED_PER_SECOND = 1e6  # of bootstrap intervals over all measures of a judge; assumed
_SCORED = 64  # pairs that are scored to time a scorer


def win_rates(outlook: Outlook, settings: WinRateSettings) -> Estimate:
    """All comparisons by all judges, on the prompts that policies share."""
    flows: list[Flow] = outlook.reads["samples"]
    pairs = comparisons(settings, len(flows)) * _matched(flows)
    if not pairs:
        return not_estimated("no answers to compare are expected, so it would stop")
    parts: dict[str, float] = {}
    tokens: dict[str, float] = {}
    basis: list[str] = []
    money, gpus, rows = 0.0, 0.0, 0.0
    items = stand_in_pairs(flows[0] if flows else Flow())
    for judge in settings.judges:
        rows += pairs * getattr(judge, "repeats", 1)
        if judge.kind == "scorer":
            per_pair = timed(judge.name, items)
            if per_pair is None:
                return not_estimated(f"no responses yet to time {judge.name} on", rows_in=pairs)
            parts[judge.name] = pairs * per_pair
            continue
        try:
            if judge.kind == "oracle":
                found_parts, scored, told = _rewarded(outlook, judge, flows, items)
                parts |= {f"{judge.name}: {name}": value for name, value in found_parts.items()}
                tokens["scored"] = tokens.get("scored", 0.0) + scored
                basis.append(f"{judge.name}: {told}")
                continue
            found = _judged(outlook, judge, pairs, items, flows)
        except Unknown as error:
            return not_estimated(str(error), rows_in=pairs)
        parts |= {f"{judge.name}: {name}": value for name, value in found.parts.items()}
        for name, count in found.tokens.items():
            tokens[name] = tokens.get(name, 0.0) + count
        basis += [f"{judge.name}: {told}" for told in found.basis]
        if "asked_share" not in found.rates.values:
            basis.append(f"{judge.name}: no equal answers assumed, which need not be asked about")
        money, gpus = money + found.money, max(gpus, found.gpus)
    size = rows * packed_bytes([*items] or [])
    return Estimate(
        rows_in=rows, rows_out=rows, tokens=tokens, parts=parts, bytes=size, peak_bytes=2 * size,
        gpus=gpus, money=money, basis=tuple(basis), flow=Flow(rows={"": rows}),
    )  # fmt: skip


def goal_control(outlook: Outlook, settings: GoalControlSettings) -> Estimate:
    """Every answer scored once."""
    flows: list[Flow] = outlook.reads["samples"]
    answers = sum(flow.total * flow.texts.get("responses", 1.0) for flow in flows)
    per_pair = 0.0
    if settings.scorer is not None:
        found = timed(settings.scorer, stand_in_pairs(flows[0] if flows else Flow()))
        if found is None:
            return not_estimated(f"no responses yet to time {settings.scorer} on", rows_in=answers)
        per_pair = found
    return Estimate(
        rows_in=answers, rows_out=answers, parts={"scores": answers * per_pair / 2},
        bytes=100 * answers, flow=Flow(rows={"": answers}),
    )  # fmt: skip


def comparisons(settings: WinRateSettings, policies: int) -> int:
    """Pairs of policies that are compared."""
    if settings.comparisons is not None:
        return len(settings.comparisons)
    if settings.baseline is not None:
        return max(0, policies - 1)
    return policies * (policies - 1) // 2


def _matched(flows: Sequence[Flow]) -> float:
    """Answers that two policies share: by the one with the fewest."""
    return min((f.total * f.texts.get("responses", 1.0) for f in flows), default=0.0)


def stand_in_pairs(flow: Flow) -> list[Row]:
    """Pairs of responses to judge before there are any: the rows' own two."""
    rows = [row for row in flow.sample if row.get("chosen") and row.get("rejected")]
    return [
        {
            "id": f"pair-{number}",
            "prompt": row["prompt"],
            "response_a": response_text(row["chosen"]),
            "response_b": response_text(row["rejected"]),
        }
        for number, row in enumerate(rows)
    ]


def timed(name: str, items: Sequence[Row]) -> float | None:
    """Seconds that a scorer takes for a pair; None where there is nothing to score."""
    scorer = scorers.get(name)
    if not items:
        return None
    tried = items[:_SCORED]
    started = time.perf_counter()
    for item in tried:
        for side in ("a", "b"):
            try:
                scorer(prompt_text(item["prompt"]), item[f"response_{side}"])
            except ValueError:  # one that cannot be scored takes its time, too
                continue
    return (time.perf_counter() - started) / len(tried)


def _judged(
    outlook: Outlook,
    judge: LlmJudge | EndpointJudge,
    pairs: float,
    items: list[Row],
    flows: Sequence[Flow],
) -> PassEstimate:
    """A judge's pass, and what it costs where an endpoint charges.

    Raises:
        Unknown: there is no rate.
    """
    from rayonale.evaluate.judges import EndpointJudge

    if isinstance(judge, EndpointJudge):
        return _asked(outlook, judge, pairs, items)
    from rayonale.evaluate.judges import JudgeTask

    model = outlook.model(judge.model, "judge_model")
    questions = [_question(item, judge) for item in items]
    key = model_key(model)
    told = judge.model_dump(mode="json", include={"template", "sampling", "repeats", "verdict"})

    def read(manifest: Mapping[str, Any]) -> Values | None:
        settings: Row = next(
            (j for j in manifest["settings"]["judges"] if j["name"] == judge.name), {}
        )
        facts: Row = next(
            (f for f in manifest["details"]["judges"] if f["judge"] == judge.name), {}
        )
        same = all(settings.get(name) == value for name, value in told.items())
        engine = judge.engine.model_dump(mode="json")
        if not same or settings.get("engine") != engine or not facts.get("tokens_per_second"):
            return None
        if (
            facts.get("rows_resumed")
            or key_of_read(manifest, settings["model"], "judge_model") != key
        ):
            return None
        asked = facts.get("rows_per_second", 0.0) * facts["generation_seconds"]
        whole = {**manifest, "rows_in": 1, "rows_out": 1, "seconds": facts["generation_seconds"]}
        found = values_of(facts, whole, asked * 2 * judge.repeats, 2.0 * judge.repeats)
        equal = facts.get("equal_responses", 0)
        return {**found, "asked_share": asked / max(1.0, asked + equal)}

    flow = flows[0] if flows else Flow()
    prompt = rendered(
        Flow(sample=questions), outlook.session.sizes.sizer(model, judge.engine.chat_template),
        _declared(outlook, flow, model), _messages, template=prompts.source(judge.template),
        shown=("prompt", "responses", "responses"),
    )  # fmt: skip
    found = estimate_pass(
        outlook,
        Pass(
            model=model, engine=judge.engine, rows=pairs, asked=pairs, per_row=2.0 * judge.repeats,
            prompt_tokens=prompt, max_tokens=judge.sampling.max_tokens,
            task=JudgeTask(judge.sampling, judge.repeats, judge.seed, judge.verdict)
            if questions else None,
            sample=questions, settings=told, read=read,
        ),
    )  # fmt: skip
    return found


def _rewarded(
    outlook: Outlook, judge: OracleJudge, flows: Sequence[Flow], items: list[Row]
) -> tuple[dict[str, float], float, str]:
    """An oracle's pass over every policy's answers, each of which is scored once.

    Raises:
        Unknown: neither the oracle nor how long answers are is known.
    """
    from rayonale.enrich.reward_estimates import reward_parts, reward_rates

    model = outlook.model(judge.model or "", "oracle")
    if not model:
        raise Unknown(f"{judge.name}: the reward model is not known")
    flow = flows[0] if flows else Flow()
    sizes = outlook.session.sizes.of(flow, model, judge.engine.chat_template)
    answer = flow.tokens.get("responses") or sizes.get("chosen")
    if answer is None or "prompt" not in sizes:
        raise Unknown(f"{judge.name}: tokens of the answers are not known")
    answers = sum(f.total * f.texts.get("responses", 1.0) for f in flows)
    tokens = answers * (sizes["prompt"] + answer)
    rates = reward_rates(outlook, model, judge.engine, judge.backend, list(flow.sample))
    parts = reward_parts(outlook, model, judge.engine, rates, tokens)
    parts["pass"] = rates.get("pass_seconds", 0.0)
    return parts, tokens, f"speed {rates.source}"


def _declared(outlook: Outlook, flow: Flow, model: str) -> Mapping[str, float]:
    return outlook.session.sizes.of(replace(flow, sample=()), model)


def _question(item: Row, judge: PairJudge) -> Row:
    prompt, a, b = prompt_text(item["prompt"]), item["response_a"], item["response_b"]
    return {
        "id": item["id"],
        "ab": prompts.render(judge.template, prompt=prompt, response_1=a, response_2=b),
        "ba": prompts.render(judge.template, prompt=prompt, response_1=b, response_2=a),
    }


def _messages(question: Row) -> list[Any]:
    return [[{"role": "user", "content": question[order]}] for order in ("ab", "ba")]


def _asked(outlook: Outlook, judge: EndpointJudge, pairs: float, items: list[Row]) -> PassEstimate:
    """A judge behind an endpoint."""
    completions = pairs * 2 * judge.repeats
    questions = [_question(item, judge) for item in items]
    text = prompts.source(judge.template)
    flow = (outlook.reads["samples"] or [Flow()])[0]
    sizer = outlook.session.sizes.sizer("endpoint/model")  # nobody's tokenizer: by characters
    prompt = rendered(Flow(sample=questions), sizer, flow.tokens, _messages, template=text,
                      shown=("prompt", "responses", "responses"))  # fmt: skip
    return endpoint_pass(
        outlook, judge.endpoint, completions, prompt_tokens=prompt,
        max_tokens=judge.sampling.max_tokens,
    )  # fmt: skip


def reward_accuracy(outlook: Outlook, settings: RewardAccuracySettings) -> Estimate:
    """Stored rewards are compared: seconds at most."""
    flow = outlook.flow()
    rows = flow.total if settings.splits is None else flow.of(settings.splits)
    return Estimate(
        rows_in=rows, rows_out=rows, parts={"rows": rows / ROWS_PER_SECOND}, bytes=60.0 * rows,
        peak_bytes=60.0 * rows, basis=(f"{ROWS_PER_SECOND:,.0f} rows/s assumed",),
        flow=Flow(rows={"": rows}),
    )  # fmt: skip


def judge_accuracy(outlook: Outlook, settings: JudgeAccuracySettings) -> Estimate:
    """Every judged input is drawn `resamples` times, for each way of making one verdict."""
    flows: list[Flow] = outlook.reads["judgements"]
    inputs = sum(flow.total for flow in flows)
    made = inputs * max(1, len(settings.strategies or ()))
    drawn = made * settings.resamples / RESAMPLED_PER_SECOND
    return Estimate(
        rows_in=inputs, rows_out=made, parts={"intervals": drawn}, bytes=60.0 * made,
        peak_bytes=60.0 * made, basis=(f"{RESAMPLED_PER_SECOND:,.0f} resampled rows/s assumed",),
        flow=Flow(rows={"": made}),
    )  # fmt: skip


def margins(outlook: Outlook, settings: MarginSettings) -> Estimate:
    """Held-out pairs through the reference and every policy."""
    from rayonale.enrich.reference import ReferenceSettings

    flow = outlook.flow()
    rows = flow.of((settings.split,))
    rows = min(rows, settings.limit) if settings.limit else rows
    if not rows:
        return not_estimated(f"no rows of split {settings.split} are expected, so it would stop")
    passes = 1 + len(outlook.reads["policies"])
    model = outlook.model(settings.model, "reference")
    names = ("chat_template", "dtype", "max_length", "micro_batch_tokens", "workers",
             "cpus_per_worker", "use_gpu")  # fmt: skip
    forward = ReferenceSettings(**{name: getattr(settings, name) for name in names})
    try:
        sizes = outlook.session.sizes.of(flow, model, settings.chat_template)
        tokens = passes * rows * tree_tokens(sizes, flow, REFERENCED["pair"])
        rates = forward_rates(outlook, forward, model, flow)
    except Unknown as error:
        return not_estimated(str(error), rows_in=rows)
    parts = {
        "start": passes * rates["start_seconds"],
        "forward": seconds(tokens, rates["tokens_per_second"], settings.workers),
    }
    size = 60.0 * rows * (passes - 1)  # an id and six numbers
    return Estimate(
        rows_in=rows, rows_out=rows * (passes - 1), tokens={"scored": tokens}, parts=parts,
        bytes=size, peak_bytes=size + passes * rows * flow.bytes_per_row,
        gpus=float(settings.workers) if outlook.uses_gpu(settings.use_gpu) else 0.0,
        basis=(f"speed {rates.source}",), flow=Flow(rows={"": rows * (passes - 1)}),
    )  # fmt: skip
