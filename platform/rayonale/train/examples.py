"""From a pair's row to token lists, or to a reject: the only place where training reads text.

{"id", "prompt": [messages], "chosen": […], "rejected": […], "rationales": […]}
    → {"id", "prompt": [ids], "chosen": [ids], "rejected": [ids],
       "rationale_prompt": [ids], "rationale": [ids],
       "ref_chosen_logprob": −31.2, "ref_rejected_logprob": −40.9, "reference": "model=…"}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import xxhash

from rayonale.data import tokens
from rayonale.losses.spec import Loss
from rayonale.records import Reject, RejectKind
from rayonale.train.rationale_prompts import RationaleRejected, rationale_example
from rayonale.train.settings import RationalePrompt
from rayonale.train.trees import trees_of

REFERENCE_OF = {"chosen": "ref_chosen_logprob", "rejected": "ref_rejected_logprob"}
REFERENCE_COLUMNS = tuple(REFERENCE_OF.values())


@dataclass(frozen=True)
class Encoding:
    """What decides a row's tokens.

    Attributes:
        model: folder or hub name whose tokenizer is used.
        sequences: responses to encode: `chosen`, `rejected`, `rationale`.
        values: numeric columns to carry along.
        max_length: tokens of a prompt with its longest response.
        rationale: the rationale's prompt.
        seed: of the shuffled order of responses in the rationale's prompt.
    """

    model: str
    sequences: tuple[str, ...]
    values: tuple[str, ...] = ()
    chat_template: str | None = None
    max_length: int = 2_048
    max_prompt_length: int | None = None
    rationale: RationalePrompt = field(default_factory=RationalePrompt)
    seed: int = 0
    fingerprint: bool = False

    def tokenizer(self) -> Any:
        """The tokenizer with its chat template."""
        return tokens.load_tokenizer(self.model, self.chat_template)

    def columns(self) -> list[str]:
        """Columns of the rows that are read."""
        text = [name for name in self.sequences if name != "rationale"]
        if "rationale" in self.sequences:
            text = ["chosen", "rejected", "rationales"]
        return ["id", "prompt", *text, *self.values]

    def schema(self) -> pa.Schema:
        """Columns of a shard."""
        trees = trees_of(self.sequences)
        fields = [("id", pa.string())]
        for column in [*trees, *self.sequences]:
            fields.append((column, pa.list_(pa.int32())))
            fields.append((f"{column}_tokens", pa.int32()))
        fields += [(name, pa.float32()) for name in self.values if name != REFERENCE]
        if self.fingerprint:
            fields += [("tokens", pa.string())]
        if REFERENCE in self.values:
            fields += [(REFERENCE, pa.string())]
        return pa.schema(fields)


REFERENCE = "reference_fingerprint"


def columns_of(loss: Loss) -> tuple[str, ...]:
    """Numeric columns that a loss reads, the reference's log-probabilities among them."""
    return (*(REFERENCE_COLUMNS if loss.reference else ()), *loss.values)


def encode(
    tokenizer: Any, row: Mapping[str, Any], encoding: Encoding
) -> tuple[dict[str, Any] | None, Reject | None]:
    """One row's token lists, or why it is left out."""
    found: dict[str, Any] = {"id": row["id"]}
    for prompt, names in trees_of(encoding.sequences).items():
        if prompt == "rationale_prompt":
            try:
                messages, response = rationale_example(row, encoding.rationale, encoding.seed)
            except RationaleRejected as error:
                return None, reject(row, error.kind, error.reason, str(error))
            responses = {"rationale": response}
        else:
            messages, responses = row["prompt"], {name: row[name] for name in names}
        try:
            found[prompt] = tokens.encode_prompt(tokenizer, messages)
            for name in names:
                found[name] = tokens.encode_response(tokenizer, messages, responses[name])
        except ValueError as error:
            return None, reject(row, RejectKind.INVALID, "untokenisable", str(error))
        for name in names:
            why = tokens.over_long(
                found[prompt],
                found[name],
                encoding.max_length,
                None if prompt == "rationale_prompt" else encoding.max_prompt_length,
            )
            if why:
                reason = "rationale_over_long" if name == "rationale" else "over_long"
                return None, reject(row, RejectKind.LIMIT, reason, f"{name}: {why}")
    for column in [*trees_of(encoding.sequences), *encoding.sequences]:
        found[f"{column}_tokens"] = len(found[column])
    for name in encoding.values:
        if row[name] is None:
            return None, reject(row, RejectKind.INVALID, f"no_{name}", f"{name} is null")
        found[name] = row[name]
    if encoding.fingerprint:
        found["tokens"] = tokens_hash(found)
    return found, None


def tokens_hash(example: Mapping[str, Any]) -> str:
    """Hash of a pair's tokens (16 hex digits): reference log-probabilities hold for these."""
    parts: Sequence[Sequence[int]] = [example[c] for c in ("prompt", "chosen", "rejected")]
    return xxhash.xxh3_64_hexdigest(json.dumps(parts).encode())


def reject(row: Mapping[str, Any], kind: RejectKind, reason: str, detail: str) -> Reject:
    """The row as a reject."""
    return Reject(
        id=row["id"],
        kind=kind.value,
        reason=reason,
        detail=detail,
        source=row.get("source"),
        line=row.get("line"),
        row=json.dumps(dict(row), ensure_ascii=False, default=str),
    )
