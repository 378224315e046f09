"""The `margins` stage: how much each policy has moved towards the chosen response of each pair.

    held-out pairs ─┬─ reference ─► S_ref ─┐
                    ├─ policy 1 ──► S_π ───┴─► β·Δ of every pair
                    └─ policy 2 ──► …          Δ = (S_π − S_ref)(chosen) − (S_π − S_ref)(rejected)

The log-probabilities come from the `reference_logprobs` stage, with each policy in turn as the
model: the trainer's own forward, resumable chunk by chunk.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from rayonale import storage
from rayonale.enrich import reference
from rayonale.evaluate import estimates
from rayonale.evaluate.policies import labels_of_models
from rayonale.evaluate.statistics import mean_interval
from rayonale.lineage import fingerprints
from rayonale.records import REJECT, RejectKind
from rayonale.stages import Reads, Settings, Stage, StageContext, StageOutput, StageResult

log = logging.getLogger("rayonale")

# Points of a sorted curve that the report draws.
CURVE_POINTS = 200
# β where neither the settings nor the policy's loss name one.
DEFAULT_BETA = 0.1

ROWS = pa.schema(
    [
        ("id", pa.string()),
        ("policy", pa.string()),
        ("margin", pa.float64()),  # β·Δ, nats
        ("beta", pa.float64()),
        ("policy_chosen_logprob", pa.float32()),  # sums, nats
        ("policy_rejected_logprob", pa.float32()),
        ("ref_chosen_logprob", pa.float32()),
        ("ref_rejected_logprob", pa.float32()),
    ]
)

_COLUMNS = ("id", "prompt", "chosen", "rejected")
# id → (log-prob of chosen, of rejected), nats
Logprobs = dict[str, tuple[float, float]]
Tokens = dict[str, str]  # id → hash of the tokens that were scored


class MarginSettings(Settings):
    """Settings of the `margins` stage.

    Attributes:
        model: the reference, when no stage is read in the role `reference`.
        split: the pairs to measure on.
        limit: at most so many pairs, the smallest ids (which are hashes) first.
        beta: None takes each policy's own from its loss, and 0.1 where it has none.
        chat_template: replaces every policy's own; the same as in training.
        dtype, max_length, micro_batch_tokens, workers, cpus_per_worker, use_gpu: of the forward
            pass; see `reference_logprobs`.
    """

    model: str = "tinyworld"
    chat_template: str | None = None
    split: Literal["test", "validation", "train"] = "test"
    limit: int | None = Field(None, gt=0)
    beta: float | None = Field(None, gt=0)
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_length: int = Field(2_048, gt=1)
    micro_batch_tokens: int | None = Field(None, gt=0)
    workers: int = Field(1, gt=0)
    cpus_per_worker: int = Field(1, gt=0)
    use_gpu: bool | None = None


def run(context: StageContext, settings: MarginSettings) -> StageResult:
    """Measure every policy on the same pairs.

    Raises:
        ValueError: no pair of the split, or a policy sees other tokens than the reference.
    """
    pairs, measured = held_out(context, settings)
    read: StageOutput | None = context.inputs.get("reference")
    base, seen, left_out = logprobs(context, settings, "reference", pairs, read)
    rows: list[dict[str, Any]] = []
    entries = []
    policies: list[StageOutput] = context.inputs["policies"]
    for label, policy in zip(labels_of_models(policies), policies, strict=True):
        own, tokens, refused = logprobs(context, settings, label, pairs, policy)
        require_same_tokens(label, tokens, seen)
        left_out += refused
        beta = settings.beta or beta_of(policy) or DEFAULT_BETA
        both = sorted(own.keys() & base.keys())
        found = [_row(key, label, beta, own[key], base[key]) for key in both]
        rows += found
        entries.append(margins_of(label, beta, [row["margin"] for row in found]))
        log.info(
            "%s: %s orders %.1f %% of %d pairs rightly", context.name, label,
            100 * entries[-1]["accuracy"], len(found),
        )  # fmt: skip
    storage.write_rows(storage.join(context.out, storage.ROWS), iter(rows), ROWS)
    storage.write_rows(storage.join(context.out, storage.REJECTS), iter(left_out), REJECT)
    counts = Counter((row["kind"], row["reason"]) for row in left_out)
    rejects: dict[str, dict[str, int]] = {}
    for (kind, reason), number in counts.items():
        rejects.setdefault(kind, {})[reason] = number
    return StageResult(
        rows_in=measured,
        rows_out=len(rows),
        rejects=rejects,
        metrics={
            f"{name}/{entry['policy']}": float(entry[name])
            for entry in entries
            for name in ("accuracy", "mean")
        },
        details={"policies": [entry["policy"] for entry in entries], "margins": entries},
    )


def held_out(context: StageContext, settings: MarginSettings) -> tuple[StageOutput, int]:
    """The pairs to measure on, as rows of their own in `work/`, and how many they are."""
    folder = storage.join(context.out, storage.WORK, "pairs")
    done = storage.join(folder, "done.json")
    if not storage.exists(done):
        storage.remove(folder)
        columns = [*_COLUMNS, "split"]
        schema = pa.schema([storage.schema(context.rows()).field(name) for name in _COLUMNS])
        chosen = sorted(_ids(context.rows(), settings.split))[: settings.limit]
        wanted = set(chosen)
        rows = (
            {name: row[name] for name in _COLUMNS}
            for row in storage.read_rows(context.rows(), columns)
            if row["split"] == settings.split and row["id"] in wanted
        )
        storage.write_json(done, {"rows": storage.write_rows(folder, rows, schema)})
    number = int(storage.read_json(done)["rows"])
    if number == 0:
        raise ValueError(
            f"{context.rows()}: no pairs of split {settings.split!r}; give another `split`"
        )
    return StageOutput("pairs", folder, fingerprints.of(folder)), number


def _ids(rows: str, split: str) -> Iterator[str]:
    for row in storage.read_rows(rows, ["id", "split"]):
        if row["split"] == split:
            yield row["id"]


def logprobs(
    context: StageContext,
    settings: MarginSettings,
    label: str,
    pairs: StageOutput,
    model: StageOutput | None,
) -> tuple[Logprobs, Tokens, list[dict[str, Any]]]:
    """Log-probabilities of all pairs under one model, what it saw, and what it left out."""
    out = storage.join(context.out, storage.WORK, "logprobs", label)
    inputs: dict[str, Any] = {"rows": pairs} | ({"model": model} if model is not None else {})
    inner = StageContext(
        name=f"{context.name}: {label}", out=out, inputs=inputs, engines=context.engines,
        fingerprint=context.fingerprint, code_version=context.code_version, run=context.run,
    )  # fmt: skip
    forward = reference.ReferenceSettings(
        model=settings.model, chat_template=settings.chat_template,
        dtype=settings.dtype, workers=settings.workers,
        cpus_per_worker=settings.cpus_per_worker, use_gpu=settings.use_gpu,
        micro_batch_tokens=settings.micro_batch_tokens, max_length=settings.max_length,
    )  # fmt: skip
    reference.run(inner, forward)
    columns = ["id", "ref_chosen_logprob", "ref_rejected_logprob", "reference_fingerprint"]
    found: Logprobs = {}
    tokens: Tokens = {}
    for row in storage.read_rows(storage.join(out, storage.ROWS), columns):
        found[row["id"]] = (row["ref_chosen_logprob"], row["ref_rejected_logprob"])
        tokens[row["id"]] = row["reference_fingerprint"].rpartition("tokens=")[2]
    refused = [
        {**row, "kind": str(RejectKind(row["kind"])), "detail": f"{label}: {row['detail']}"}
        for row in storage.read_rows(storage.join(out, storage.REJECTS))
    ]
    return found, tokens, refused


def require_same_tokens(label: str, own: Tokens, reference: Tokens) -> None:
    """Refuse to subtract log-probabilities of different tokens.

    Raises:
        ValueError: another tokenizer or chat template; names the first pair.
    """
    for key in sorted(own.keys() & reference.keys()):
        if own[key] != reference[key]:
            raise ValueError(
                f"{label}: its tokens of pair {key} are not the reference's (another tokenizer or "
                "chat template), so their log-probabilities cannot be compared; expected policies "
                "trained from the reference, or one `chat_template` for all"
            )


def beta_of(policy: StageOutput) -> float | None:
    """The β of a policy's loss, where it has one."""
    loss = policy.manifest.get("settings", {}).get("loss")
    beta = loss.get("beta") if isinstance(loss, dict) else None
    return float(beta) if beta is not None else None


def margin(own: tuple[float, float], base: tuple[float, float], beta: float) -> float:
    """β·Δ of a pair from log-probabilities (chosen, rejected) of policy and reference, nats."""
    return beta * ((own[0] - base[0]) - (own[1] - base[1]))


def _row(
    key: str, label: str, beta: float, own: tuple[float, float], base: tuple[float, float]
) -> dict[str, Any]:
    return {
        "id": key, "policy": label, "margin": margin(own, base, beta), "beta": beta,
        "policy_chosen_logprob": own[0], "policy_rejected_logprob": own[1],
        "ref_chosen_logprob": base[0], "ref_rejected_logprob": base[1],
    }  # fmt: skip


def margins_of(policy: str, beta: float, margins: Sequence[float]) -> dict[str, Any]:
    """What the report shows of one policy's margins.

    `accuracy` is the share of margins above zero, a zero counting half; `sorted` are at most
    `CURVE_POINTS` quantiles, evenly spaced; `heavy` is the share of margins that are further
    than two standard deviations from the mean (4.6 % of a normal distribution).

    Raises:
        ValueError: no margin.
    """
    if not margins:
        raise ValueError(f"{policy}: no pair was measured; expected one or more")
    array = np.sort(np.asarray(margins, dtype=np.float64))
    right = np.where(array > 0, 1.0, np.where(array == 0, 0.5, 0.0))
    accuracy = mean_interval(right, bounds=(0.0, 1.0))
    points = min(CURVE_POINTS, array.size)
    spread = float(array.std())
    return {
        "policy": policy,
        "beta": beta,
        "pairs": int(array.size),
        "accuracy": accuracy.value,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "mean": float(array.mean()),
        "deviation": spread,
        "quantile_05": float(np.quantile(array, 0.05)),
        "quantile_50": float(np.quantile(array, 0.5)),
        "quantile_95": float(np.quantile(array, 0.95)),
        "heavy": float((np.abs(array - array.mean()) > 2 * spread).mean()) if spread else 0.0,
        "sorted": [
            round(float(value), 5)
            for value in np.quantile(array, (np.arange(points) + 0.5) / points)
        ],
    }


def slope_at_zero(margins: Sequence[float], reach: float = 0.05) -> float | None:
    """How steeply a sorted curve crosses zero, in nats per 1 % of pairs; None when it does not.

    Args:
        margins: sorted, evenly spaced over the pairs.
        reach: share of pairs to each side of the crossing that the slope is taken over.
    """
    if len(margins) < 3 or not margins[0] < 0 < margins[-1]:
        return None
    at = next(place for place, value in enumerate(margins) if value >= 0)
    step = max(1, round(reach * len(margins)))
    low, high = max(0, at - step), min(len(margins) - 1, at + step)
    return (margins[high] - margins[low]) / (100 * (high - low) / len(margins))


STAGE = Stage(
    kind="margins",
    settings=MarginSettings,
    run=run,
    reads={
        "rows": Reads("rows", columns=(*_COLUMNS, "split")),
        "policies": Reads("model", many=True),
        "reference": Reads("model", optional=True),
    },
    adds=tuple(ROWS.names),
    own_devices=True,
    estimate=estimates.margins,
)
