"""What training and merging will take; see `rayonale.planning`.

tokens  = rows · epochs · tokens of a row's trees (each prompt once, responses less their last)
seconds = tokenising + seeds · (start and export + tokens / (tokens/s) + validations)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rayonale import losses, prompts
from rayonale.enrich.estimates import tree_tokens
from rayonale.enrich.mismatched import with_mismatched
from rayonale.enrich.transcript import prompt_text, response_text
from rayonale.planning import arithmetic
from rayonale.planning.arithmetic import TRAIN_FLOPS, TRAIN_FLOPS_RECOMPUTED
from rayonale.planning.flow import BYTES_PER_TOKEN, Estimate, Flow, Row, not_estimated
from rayonale.planning.outlook import (
    TRAIN_START_SECONDS,
    Outlook,
    is_here,
    key_of_read,
    model_key,
)
from rayonale.planning.probes import stand_ins
from rayonale.planning.rates import Rates, Values
from rayonale.planning.sizes import Unknown, rendered, shared
from rayonale.train.examples import ENSEMBLE_VALUES, LIST_VALUES, REFERENCE, sequences_of
from rayonale.train.settings import RationalePrompt
from rayonale.train.trees import LISTS, RATIONALE_PROMPT, SHARED

if TYPE_CHECKING:
    from rayonale.train.merge import MergeSettings
    from rayonale.train.settings import TrainSettings

FORWARD_SHARE = 1 / 3  # of the time that forward and backward take
_WEIGHT_BYTES = 2.0  # of a parameter in bfloat16
_DISK_BYTES_PER_SECOND = 200e6  # read and written; assumed
_STATE_BYTES = 12  # of a parameter in a checkpoint, beside the weights: float32 and Adam's two
# What a training's speed depends on, beside the model and what its loss reads.
_COUNTS = (
    "dtype", "zero_stage", "offload", "gradient_checkpointing", "attention", "lora", "workers",
    "cpus_per_worker", "use_gpu", "micro_batch_tokens", "micro_batch_pairs",
)  # fmt: skip


def train(outlook: Outlook, settings: TrainSettings) -> Estimate:
    """Tokens of all steps and validations, time, the exported model and its checkpoints."""
    flow = outlook.flow()
    model = outlook.model(settings.model)
    left = Flow(model=model)
    rows, steps = length(settings, flow)
    if not rows:
        return not_estimated("no rows of split train are expected, so it would stop", left)
    try:
        per_row, ahead = row_tokens(outlook, settings, model, flow)
        rates = train_rates(outlook, settings, model, flow, per_row)
    except Unknown as error:
        return not_estimated(str(error), left, rows_in=rows)
    per_step = min(settings.batch_pairs, rows)
    trained = rows * settings.epochs if settings.epochs else steps * per_step
    if settings.epochs is None and settings.max_steps is None:
        trained = rows
    held_out = limited(settings.validation_limit, flow.of(("validation",)))
    validated = validations(settings, rows, steps) * held_out * per_row
    seeds = len(settings.seeds)
    tokens = {
        "trained": seeds * trained * per_row,
        "scored": seeds * (trained * ahead + validated),
    }
    rate = rates["tokens_per_second"] * (settings.workers if rates.per_device else 1)
    counted = rates.get("validates", 0.0) == 0  # a finished run's start has its validations
    parts = {
        "tokenising": (rows + held_out) * rates.get("row_seconds", 0.0),
        "start and export": seeds * rates["start_seconds"],
        "steps": (tokens["trained"] + FORWARD_SHARE * seeds * trained * ahead) / rate,
        "validation": FORWARD_SHARE * seeds * validated / rate if counted else 0.0,
    }
    size, peak = disk(settings, model, rows * per_row)
    return Estimate(
        rows_in=rows, rows_out=rows, tokens=tokens, parts=parts, bytes=size, peak_bytes=peak,
        gpus=float(settings.workers) if outlook.uses_gpu(settings.use_gpu) else 0.0,
        basis=(f"speed {rates.source}",), flow=left,
    )  # fmt: skip


def merge(outlook: Outlook, settings: MergeSettings) -> Estimate:
    """All models read and one written, a shard at a time: what the disk takes."""
    flows: list[Flow] = outlook.reads.get("models") or []
    known = [flow.model for flow in flows if flow.model] + list(settings.models)
    left = Flow(model=known[0] if known else None)
    count = arithmetic.parameters(known[0]) if known else None
    if count is None:
        return not_estimated("the size of its models is not known", left)
    size = count * _WEIGHT_BYTES
    moved = size * (len(flows) + len(settings.models) + 1)
    return Estimate(
        parts={"weights": moved / _DISK_BYTES_PER_SECOND}, bytes=size, peak_bytes=2 * size,
        basis=(f"{_DISK_BYTES_PER_SECOND / 1e6:g} MB/s assumed",), flow=left,
    )  # fmt: skip


def limited(limit: int | float | None, rows: float) -> float:
    """Rows that a limit leaves: a share where it is a float."""
    if limit is None:
        return rows
    return min(rows, limit * rows if isinstance(limit, float) else float(limit))


def length(settings: TrainSettings, flow: Flow) -> tuple[float, float]:
    """Rows to train on, and optimiser steps over all epochs."""
    rows = limited(settings.limit, flow.of(("train",)))
    per_epoch = math.ceil(rows / settings.batch_pairs)
    if settings.max_steps is not None:
        return rows, float(settings.max_steps)
    return rows, float(max(1, round((settings.epochs or 1) * per_epoch)))


def validations(settings: TrainSettings, rows: float, steps: float) -> float:
    """How often the validation rows are scored: after each epoch, or as asked, and at the end."""
    every = settings.validate_every or max(1, math.ceil(rows / settings.batch_pairs))
    return float(math.ceil(steps / every))


def row_tokens(
    outlook: Outlook, settings: TrainSettings, model: str, flow: Flow
) -> tuple[float, float]:
    """Tokens that a row puts into the model: for the loss, and ahead of it (forward only).

    Raises:
        Unknown: a text's tokens are not known.
    """
    loss = losses.of(settings.loss)
    sizes = dict(outlook.session.sizes.of(flow, model, settings.chat_template))
    if "rationale" in loss.sequences:
        sizes |= _rationale_prompt(outlook, settings, model, flow, sizes)
    ahead = tree_tokens(sizes, flow, loss.ahead.sequences) if loss.ahead else 0.0
    return tree_tokens(sizes, flow, loss.sequences), ahead


def _rationale_prompt(
    outlook: Outlook,
    settings: TrainSettings,
    model: str,
    flow: Flow,
    sizes: Mapping[str, float],
) -> dict[str, float]:
    """Tokens of the rationale's prompt, and of those that the pair's tree has, too."""
    follows = settings.rationale is not None and settings.rationale.follows == "chosen"
    name = (settings.rationale and settings.rationale.template) or flow.template
    if name is None:
        raise Unknown("the rows come from no rationales stage: name a rationale.template")
    text = prompts.source(name)

    def messages(row: Row) -> list[Any]:
        told = prompts.render_text(
            text, where=name, prompt=prompt_text(row["prompt"]), chosen_first=True,
            chosen=response_text(row["chosen"]), rejected=response_text(row["rejected"]),
        )  # fmt: skip
        above = [*row["prompt"], *row["chosen"]] if follows else []
        return [[*above, {"role": "user", "content": told}]]

    sizer = outlook.session.sizes.sizer(model, settings.chat_template)
    found = {RATIONALE_PROMPT: rendered(flow, sizer, sizes, messages, template=text,
                                        shown=("prompt", "chosen", "rejected"))}  # fmt: skip
    if follows:
        found[SHARED] = shared(flow, sizer, sizes, messages)
    return found


def train_rates(
    outlook: Outlook, settings: TrainSettings, model: str, flow: Flow, per_row: float
) -> Rates:
    """Start and export of a run, tokens/s of all workers, seconds to tokenise a row.

    Raises:
        Unknown: there is no rate; the message says what to give.
    """
    loss = losses.of(settings.loss)
    told = settings.model_dump(mode="json")
    counts = {name: told[name] for name in _COUNTS}
    key = model_key(model)

    def read(manifest: Mapping[str, Any]) -> Values | None:
        found, metrics = manifest["settings"], manifest["metrics"]
        if any(found.get(name) != value for name, value in counts.items()):
            return None
        other = losses.of(losses.parse(found["loss"])).sequences
        if other != loss.sequences or key_of_read(manifest, found["model"]) != key:
            return None
        seeds = manifest["details"].get("seeds") or {}
        stepping = sum(seed["train_seconds"] for seed in seeds.values())
        if not seeds:
            return None
        return {
            "tokens_per_second": metrics["tokens_per_second"],
            "start_seconds": max(0.0, manifest["seconds"] - stepping) / len(seeds),
            "validates": 1.0,
        }

    rows = probe_rows(settings, flow)
    prompt = (settings.rationale or RationalePrompt()).model_copy(
        update={"template": (settings.rationale and settings.rationale.template) or flow.template}
    )
    flops = TRAIN_FLOPS_RECOMPUTED if settings.gradient_checkpointing else TRAIN_FLOPS
    rates = outlook.rates(
        {"component": "train", "model": key, "settings": counts, "sequences": loss.sequences},
        given=outlook.compute("train", model, flops, TRAIN_START_SECONDS), read=read,
        measure=(lambda probes: probes.training(settings, model, prompt, rows, per_row))
        if rows and is_here(model) else None,
    )  # fmt: skip
    if rates is None:
        raise Unknown(outlook.no_rates(model))
    return rates


def probe_rows(settings: TrainSettings, flow: Flow) -> list[Row]:
    """Rows of the sample with all that the loss reads; numbers are stand-ins.

    None where the sample lacks a text (rationales that are yet to be written).
    """
    loss = losses.of(settings.loss)
    rows = [{**row, "split": "train"} for row in flow.sample]
    for name in loss.sequences:
        column = "rationales" if name == "rationale" else name
        if column != "prompt":
            rows = [row for row in rows if row.get(column)]
    if "mismatched" in sequences_of(loss) and rows:
        rows = with_mismatched(rows)
    columns = [f"ref_{name}_logprob" for name in sequences_of(loss)] + list(loss.values)
    lists = {n: [0.0] * len(row["responses"]) for row in rows[:1] for n in LIST_VALUES
             if any(name in LISTS for name in loss.sequences)}  # fmt: skip
    lists |= {name: [0.0] for name in ENSEMBLE_VALUES}
    filled = stand_ins(rows, columns, **{REFERENCE: "probe", "label": True}, **lists)
    return [{**row, REFERENCE: "model=probe tokens=probe"} for row in filled]


def disk(settings: TrainSettings, model: str, tokens: float) -> tuple[float | None, float | None]:
    """Bytes that stay (the exported models), and at most, with checkpoints and token shards."""
    count = arithmetic.parameters(model)
    if count is None:
        return None, None
    width = 2 if settings.dtype == "bfloat16" else 4
    copies = 1 if len(settings.seeds) == 1 else 1 + len(settings.seeds)
    kept = count * width * copies
    checkpoints = settings.keep_checkpoints * count * (width + _STATE_BYTES)
    return kept, kept + checkpoints + tokens * 2 * BYTES_PER_TOKEN
