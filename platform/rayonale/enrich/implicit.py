"""Implicit rewards: β(log π(y | x) − log π_ref(y | x)) of a policy trained by DPO and its like.

Both log-probabilities come from the `reference_logprobs` stage's own pass, with the policy and then
the reference as the model: the trainer's forward, resumable chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from rayonale import models, storage
from rayonale.data.left_out import counts
from rayonale.enrich import reference
from rayonale.evaluate.margins import beta_of
from rayonale.records import REJECT
from rayonale.stages import Settings, StageContext, StageOutput, StageResult
from rayonale.train.trees import LISTS, RESPONSES_OF, reference_column, row_type_of

Row = dict[str, Any]


class Reference(Settings):
    """A reference that no stage made: a folder or a hub name."""

    model: str


class ByPolicy(Settings):
    """A policy and its reference, read in the roles `policy` and `reference`.

    Attributes:
        reference: the model that the policy was trained from, when no stage is read as it.
        beta: β; None takes the policy's own from its loss.
        chat_template, dtype, workers, cpus_per_worker, use_gpu, micro_batch_tokens, max_length: of
            the forward pass; see `reference_logprobs`.
    """

    kind: Literal["implicit"]
    reference: Reference | None = None
    beta: float | None = Field(default=None, gt=0)
    chat_template: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    workers: int = Field(default=1, gt=0)
    cpus_per_worker: int = Field(default=1, gt=0)
    use_gpu: bool | None = None
    micro_batch_tokens: int | None = Field(default=None, gt=0)
    max_length: int = Field(default=2_048, gt=1)


def run(
    context: StageContext, settings: ByPolicy, rows: str, columns: tuple[str, ...], prefix: str
) -> StageResult:
    """Score the responses of pairs, labelled rows or lists.

    Raises:
        ValueError: no policy or reference, no β, or columns that the pass does not score.
    """
    at = f"stages.{context.name}"
    policy, base = context.inputs.get("policy"), _reference(context, settings)
    if policy is None or base is None:
        raise ValueError(f"{at}.reads: implicit rewards need the roles policy and reference")
    beta = settings.beta or beta_of(policy)
    if beta is None:
        raise ValueError(f"{at}.scorer.beta: the policy's loss has none; expected a number")
    scored = RESPONSES_OF[row_type_of(storage.schema(rows).names)]
    if not set(columns) <= set(scored):
        raise ValueError(
            f"{at}.columns: found {', '.join(columns)}; implicit rewards are of {', '.join(scored)}"
        )
    outs = [
        _logprobs(context, settings, rows, role, read)
        for role, read in (("policy", policy), ("reference", base))
    ]
    names = {column: f"{prefix}_{column}" for column in columns}
    schema = storage.schema(rows).remove_metadata()
    for column, name in names.items():
        kind = pa.list_(pa.float64()) if column in LISTS else pa.float64()
        schema = _with(_with(schema, name, kind), f"{prefix}s_{column}", pa.list_(kind))
    schema = _with(schema, f"{prefix}_scorer", pa.string())
    told = f"policy={_print(policy)};reference={_print(base)};beta={beta:g}"
    rejects = {row["id"]: row for out in outs for row in _rejects(out)}
    written = storage.write_rows(
        storage.join(context.out, storage.ROWS),
        _merged(rows, outs, names, beta=beta, prefix=prefix, told=told, rejects=rejects),
        schema,
    )
    left_out = list(rejects.values())
    storage.write_rows(storage.join(context.out, storage.REJECTS), iter(left_out), REJECT)
    return StageResult(
        rows_in=written + len(left_out),
        rows_out=written,
        rejects=counts(left_out),
        details={"scorer": told, "columns": list(columns)},
    )


def _reference(context: StageContext, settings: ByPolicy) -> StageOutput | None:
    """What is read in the role, or the model that is named.

    Raises:
        ValueError: both are given.
    """
    read: StageOutput | None = context.inputs.get("reference")
    if settings.reference is None:
        return read
    if read is not None:
        raise ValueError(
            f"stages.{context.name}.scorer.reference: {read.name!r} is read in the role "
            "`reference`; give one of them"
        )
    name = settings.reference.model
    return StageOutput(name, models.resolve(name), models.fingerprint(name))


def _print(output: StageOutput) -> str:
    return models.fingerprint(output.model)[:16]


def _with(schema: pa.Schema, name: str, kind: pa.DataType) -> pa.Schema:
    at = schema.get_field_index(name)
    column = pa.field(name, kind)
    return schema.set(at, column) if at >= 0 else schema.append(column)


def _logprobs(
    context: StageContext, settings: ByPolicy, rows: str, role: str, model: StageOutput
) -> str:
    """Folder of the pass with one of the two models."""
    out = storage.join(context.out, storage.WORK, role)
    inner = StageContext(
        name=f"{context.name}: {role}",
        out=out,
        inputs={"rows": StageOutput("rows", rows, context.fingerprint), "model": model},
        engines=context.engines,
        fingerprint=context.fingerprint,
        code_version=context.code_version,
        run=context.run,
    )
    passed = settings.model_dump(exclude={"kind", "beta", "reference"})
    reference.run(inner, reference.ReferenceSettings(**passed))
    return out


def _rejects(out: str) -> Iterator[Row]:
    yield from storage.read_rows(storage.join(out, storage.REJECTS))


def _merged(
    rows: str,
    outs: list[str],
    names: dict[str, str],
    *,
    beta: float,
    prefix: str,
    told: str,
    rejects: dict[str, Row],
) -> Iterator[Row]:
    """Rows with their rewards; the three folders are in one order, with rejects left out."""
    own, base = (
        storage.read_rows(
            storage.join(out, storage.ROWS), ["id", *(reference_column(c) for c in names)]
        )
        for out in outs
    )
    policy: Row = next(own, {})
    reference_row: Row = next(base, {})
    for row in storage.read_rows(rows):
        found = []
        for current, rest in ((policy, own), (reference_row, base)):
            found.append(dict(current) if current.get("id") == row["id"] else None)
            if found[-1] is not None:
                following = next(rest, {})
                current.clear()
                current.update(following)
        if found[0] is None or found[1] is None:
            assert row["id"] in rejects, f"{row['id']} was lost between two passes"
            continue
        for column, name in names.items():
            both = [each[reference_column(column)] for each in found if each is not None]
            if column in LISTS:
                row[name] = [beta * (p - r) for p, r in zip(*both, strict=True)]
                row[f"{prefix}s_{column}"] = [row[name]]
            else:
                row[name] = beta * (both[0] - both[1])
                row[f"{prefix}s_{column}"] = [row[name]]
        yield {**row, f"{prefix}_scorer": told}
