"""What giving rewards will take; see `rayonale.planning`.

score         oracles: members · rows · tokens of prompts and responses, forward only
              rubric: responses, timed here; implicit: two forward passes
oracle judge  distinct responses · their tokens
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rayonale import storage
from rayonale.data.estimates import timed_rows
from rayonale.enrich.estimates import forward_rates, tree_tokens
from rayonale.enrich.transcript import prompt_text, response_text
from rayonale.generate.engine_arguments import architecture
from rayonale.generate.settings import EngineOptions
from rayonale.planning.arithmetic import FORWARD_FLOPS
from rayonale.planning.flow import Estimate, Flow, Row, not_estimated
from rayonale.planning.outlook import ENGINE_START_SECONDS, Outlook, is_here, model_key
from rayonale.planning.rates import Rates, Values
from rayonale.planning.sizes import Unknown
from rayonale.train.trees import REFERENCED, RESPONSES_OF

if TYPE_CHECKING:
    from rayonale.enrich.implicit import ByPolicy
    from rayonale.enrich.rewards import ByOracles, ScoreSettings

_COLUMNS = ("chosen", "rejected", "response", "responses")
_BYTES_PER_REWARD = 16.0  # a mean and a member's value
_PROBED = 256


def score(outlook: Outlook, settings: ScoreSettings) -> Estimate:
    """Rewards of all responses of the wanted splits."""
    from rayonale.enrich.implicit import ByPolicy
    from rayonale.enrich.rewards import ByRubric

    flow = outlook.flow()
    if settings.splits is not None:
        flow = replace(flow, rows={s: n for s, n in flow.rows.items() if s in settings.splits})
    left = replace(flow, bytes_per_row=flow.bytes_per_row + 4 * _BYTES_PER_REWARD)
    try:
        if isinstance(settings.scorer, ByRubric):
            return _by_rubric(outlook, settings.scorer.name, flow, settings.columns)
        if isinstance(settings.scorer, ByPolicy):
            parts, tokens, basis = _by_policy(outlook, settings.scorer, flow)
        else:
            parts, tokens, basis = _by_oracles(outlook, settings, settings.scorer, flow)
    except Unknown as error:
        return not_estimated(str(error), left, rows_in=flow.total)
    size = left.total * left.bytes_per_row
    return Estimate(
        rows_in=flow.total, rows_out=flow.total, tokens={"scored": tokens}, parts=parts,
        bytes=size, peak_bytes=2 * size, gpus=1.0 if outlook.session.gpus else 0.0,
        basis=(basis,), flow=left,
    )  # fmt: skip


def _by_rubric(outlook: Outlook, name: str, flow: Flow, columns: Sequence[str] | None) -> Estimate:
    from rayonale.enrich.reward_task import text_of
    from rayonale.evaluate import scorers

    scorer = scorers.get(name)

    def scored(row: Row) -> list[Row]:
        found = {}
        for column in columns or _COLUMNS:
            if not (value := row.get(column)):
                continue
            texts = value if column == "responses" else [value]
            try:
                given = [scorer(prompt_text(row["prompt"]), text_of(t) or "").overall
                         for t in texts]  # fmt: skip
            except ValueError:
                return []
            found[f"reward_{column}"] = given if column == "responses" else given[0]
        return [{**row, **found}]

    return timed_rows(outlook, flow, scored)


def _by_policy(
    outlook: Outlook, settings: ByPolicy, flow: Flow
) -> tuple[dict[str, float], float, str]:
    """The two passes of `reference_logprobs`."""
    from rayonale.enrich.estimates import row_type
    from rayonale.enrich.reference import ReferenceSettings

    read = outlook.reads.get("reference")
    named = settings.reference.model if settings.reference else None
    model = read.model if isinstance(read, Flow) else named
    if model is None:
        raise Unknown("the reference's model is not known")
    options = ReferenceSettings(**settings.model_dump(exclude={"kind", "beta", "reference"}))
    sizes = outlook.session.sizes.of(flow, model, settings.chat_template)
    tokens = 2 * flow.total * tree_tokens(sizes, flow, REFERENCED[row_type(flow)])
    rates = forward_rates(outlook, options, model, flow)
    return (
        {
            "start": 2 * rates["start_seconds"],
            "forward": tokens / rates["tokens_per_second"] / settings.workers,
        },
        tokens,
        f"speed {rates.source}",
    )


def _by_oracles(
    outlook: Outlook, settings: ScoreSettings, scorer: ByOracles, flow: Flow
) -> tuple[dict[str, float], float, str]:
    read: list[Flow] = outlook.reads.get("oracles") or []
    models = [each.model for each in read] or [oracle.model for oracle in scorer.oracles]
    if not models or models[0] is None:
        raise Unknown("the reward model is not known")
    model = models[0]
    sizes = outlook.session.sizes.of(flow, model, scorer.engine.chat_template)
    columns = [name for name in settings.columns or _COLUMNS if name in sizes]
    if not columns:
        raise Unknown("tokens of the responses are not known")
    per_row = sum((sizes["prompt"] + sizes[name]) * _count(flow, name) for name in columns)
    tokens = flow.total * per_row * len(models)
    rates = reward_rates(outlook, model, scorer.engine, scorer.backend, list(flow.sample))
    parts = reward_parts(outlook, model, scorer.engine, rates, tokens)
    parts["rows"] = flow.total * len(models) * rates.get("row_seconds", 0.0)
    parts["pass"] = len(models) * rates.get("pass_seconds", 0.0)
    return parts, tokens, f"speed {rates.source}"


def _count(flow: Flow, name: str) -> float:
    if name != "responses":
        return 1.0
    counts = [len(row["responses"]) for row in flow.sample if row.get("responses")]
    return sum(counts) / len(counts) if counts else flow.texts.get("responses", 1.0)


def reward_parts(
    outlook: Outlook, model: str, engine: EngineOptions, rates: Rates, tokens: float
) -> dict[str, float]:
    """Seconds of starting the engine, where none of its kind runs, and of the forward pass."""
    key = (f"rewards of {model_key(model)}", engine)
    parts = {"forward": tokens / rates["tokens_per_second"]}
    if key not in outlook.session.engines:
        outlook.session.engines.add(key)
        parts["engine start"] = rates.get("start_seconds", ENGINE_START_SECONDS)
    return parts


def reward_rates(
    outlook: Outlook, model: str, engine: EngineOptions, backend: str, rows: list[Row]
) -> Rates:
    """Start of an engine for rewards, and its tokens/s.

    Raises:
        Unknown: there is no rate; the message says what to give.
    """
    options = engine.model_dump(mode="json")
    key = model_key(model)

    def read(manifest: Mapping[str, Any]) -> Values | None:
        told = manifest["settings"]["scorer"]
        metrics = manifest["metrics"]
        if told.get("engine") != options or told.get("backend") != backend:
            return None
        if metrics.get("rows_resumed") or "scoring_seconds" not in metrics:
            return None
        if _key_of_oracles(manifest) != key:
            return None
        return _values(manifest, metrics)

    sample = [row for row in rows if row.get("chosen") and row.get("rejected")][:_PROBED]
    texts = [
        {"id": f"{number}-{side}", "prompt": row["prompt"], "response": response_text(row[side])}
        for number, row in enumerate(sample)
        for side in RESPONSES_OF["pair"]
    ]
    found = outlook.rates(
        {"component": "rewards", "model": key, "engine": options, "backend": backend},
        given=outlook.compute("forward", model, FORWARD_FLOPS, ENGINE_START_SECONDS, engine=True),
        read=read, kind="score",
        measure=(lambda probes: probes.rewards(model, engine, backend, texts))
        if texts and is_here(model) else None,
    )  # fmt: skip
    if found is None:
        raise Unknown(outlook.no_rates(model))
    return found


def _key_of_oracles(manifest: Mapping[str, Any]) -> str:
    """`model_key` of the first reward model that a finished stage used."""
    read = (manifest.get("inputs") or {}).get("oracles") or []
    if not read:
        return model_key(manifest["settings"]["scorer"]["oracles"][0]["model"])
    folder = read[0]["uri"]
    external = read[0].get("kind") == "external"
    return architecture(folder if external else storage.join(folder, storage.MODEL))


def _values(manifest: Mapping[str, Any], metrics: Mapping[str, float]) -> Values:
    members = max(1.0, metrics["members"])
    rate = metrics["tokens_per_second"]
    start = metrics.get("engine_start_seconds", 0.0)
    rest = manifest["seconds"] - start - metrics["scoring_seconds"]
    found = {
        "tokens_per_second": rate,
        "pass_seconds": max(0.0, metrics["scoring_seconds"] - metrics["scored_tokens"] / rate)
        / members,
        "row_seconds": max(0.0, rest) / max(1, manifest["rows_in"]) / members,
    }
    if start > 1:  # an engine that ran already is there at once
        found["start_seconds"] = start
    return found
