"""From a row to token lists, or to a reject: the only place where training reads text.

{"id", "prompt": [messages], "chosen": […], "rejected": […], "rationales": […]}
    → {"id", "prompt": [ids], "chosen": [ids], "rejected": [ids],
       "rationale_prompt": [ids], "rationale": [ids],
       "ref_chosen_logprob": −31.2, "ref_rejected_logprob": −40.9, "reference": "model=…"}

Labelled rows have `response` (and `mismatched`, another row's response, for KTO) in place of the
pair, lists `responses`: [[ids], [ids], …] with `scores`: [7.5, 3.0, …]. Each list's length goes
beside it (`prompt_tokens`), and `shared_tokens`: see `trees.shared_tokens`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import xxhash

from rayonale.data import tokens
from rayonale.data.left_out import LeftOut, reject
from rayonale.losses.spec import Loss
from rayonale.records import Reject, RejectKind
from rayonale.train.rationale_prompts import RationaleRejected, rationale_example
from rayonale.train.settings import RationalePrompt
from rayonale.train.trees import (
    LISTS,
    RATIONALE_PROMPT,
    REFERENCED,
    SHARED,
    may_share,
    reference_column,
    responses_among,
    shared_tokens,
    trees_of,
)

REFERENCE = "reference_fingerprint"
TOGETHER = "together"
# Columns with a number for each response of a list.
LIST_VALUES = ("scores", *(reference_column(name) for name in LISTS))
# Columns with a number for each member of an ensemble of oracles, as many in all rows.
ENSEMBLE_VALUES = ("rewards_chosen", "rewards_rejected")


@dataclass(frozen=True)
class Encoding:
    """What decides a row's tokens.

    Attributes:
        model: folder or hub name whose tokenizer is used.
        sequences: what to encode: `chosen`, `rejected`, `rationale`, `response`, `responses` …
        values: numeric columns to carry along.
        max_length: tokens of a prompt with its longest response.
        rationale: the rationale's prompt.
        seed: of the shuffled order of responses in the rationale's prompt.
        fingerprint: carry a hash of the tokens that stored reference log-probabilities hold for.
        together: a column of texts to carry along: rows of equal ones stay together.
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
    together: str | None = None

    def tokenizer(self) -> Any:
        """The tokenizer with its chat template."""
        return tokens.load_tokenizer(self.model, self.chat_template)

    def columns(self) -> list[str]:
        """Columns of the rows that are read."""
        text = [name for name in responses_among(self.sequences) if name != "rationale"]
        if "rationale" in self.sequences:
            text = ["chosen", "rejected", "rationales"]
        named = [] if self.together is None else [self.together]
        return ["id", "prompt", *text, *self.values, *named]

    def schema(self) -> pa.Schema:
        """Columns of a shard."""
        fields = [("id", pa.string())]
        for column in [*trees_of(self.sequences), *responses_among(self.sequences)]:
            text, count = pa.list_(pa.int32()), pa.int32()
            lists = column in LISTS
            fields.append((column, pa.list_(text) if lists else text))
            fields.append((f"{column}_tokens", pa.list_(count) if lists else count))
        if may_share(self.sequences):
            fields.append((f"{SHARED}_tokens", pa.int32()))
        for name in self.values:
            if name != REFERENCE:
                number = pa.float32()
                several = name in LIST_VALUES or name in ENSEMBLE_VALUES
                fields.append((name, pa.list_(number) if several else number))
        if self.fingerprint:
            fields += [("tokens", pa.string())]
        if REFERENCE in self.values:
            fields += [(REFERENCE, pa.string())]
        if self.together is not None:
            fields += [(TOGETHER, pa.string())]
        return pa.schema(fields)


def sequences_of(loss: Loss) -> tuple[str, ...]:
    """All that a loss computes, ahead of the loss itself too."""
    ahead = loss.ahead.sequences if loss.ahead else ()
    return tuple(dict.fromkeys((*loss.sequences, *ahead)))


def columns_of(loss: Loss, sequences: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """Numeric columns that a loss reads, the reference's log-probabilities among them.

    Args:
        sequences: only the reference's of these.
    """
    wanted = sequences_of(loss) if sequences is None else sequences
    stored = [name for name in REFERENCED[loss.rows] if name in wanted] if loss.reference else []
    return (*(reference_column(name) for name in stored), *loss.values)


def encode(
    tokenizer: Any, row: Mapping[str, Any], encoding: Encoding
) -> tuple[dict[str, Any] | None, Reject | None]:
    """One row's token lists, or why it is left out."""
    found: dict[str, Any] = {"id": row["id"]}
    for prompt, names in trees_of(encoding.sequences).items():
        if prompt == RATIONALE_PROMPT:
            try:
                messages, response = rationale_example(row, encoding.rationale, encoding.seed)
            except RationaleRejected as error:
                return None, reject(row, error.kind, error.reason, str(error))
            responses = {"rationale": response}
        else:
            messages, responses = row["prompt"], {name: row[name] for name in names}
        try:
            found |= _encode_tree(tokenizer, encoding, prompt, messages, responses)
        except LeftOut as left_out:
            return None, reject(row, left_out.kind, left_out.reason, str(left_out))
    found |= _counts(found, encoding.sequences)
    for name in encoding.values:
        value = row[name]
        if value is None or (isinstance(value, list) and (None in value or not value)):
            return None, reject(row, RejectKind.INVALID, f"no_{name}", f"{name} is null")
        found[name] = value
    for name in {"responses", *LIST_VALUES} & found.keys():
        if len(found[name]) != len(row["responses"]):
            why = f"{name}: found {len(found[name])} for {len(row['responses'])} responses"
            return None, reject(row, RejectKind.INVALID, "lists_differ", why)
    if encoding.fingerprint:
        found["tokens"] = tokens_hash(found)
    if encoding.together is not None:
        value = row[encoding.together]
        found[TOGETHER] = row["id"] if value is None else str(value)
    return found, None


def _counts(found: Mapping[str, Any], sequences: Sequence[str]) -> dict[str, Any]:
    """`<name>_tokens` of a row's token lists."""
    counts: dict[str, Any] = {}
    for column in [*trees_of(sequences), *responses_among(sequences)]:
        text = found[column]
        counts[f"{column}_tokens"] = [len(t) for t in text] if column in LISTS else len(text)
    if may_share(sequences):
        counts[f"{SHARED}_tokens"] = shared_tokens(found)
    return counts


def _encode_tree(
    tokenizer: Any, encoding: Encoding, prompt: str, messages: Any, responses: Mapping[str, Any]
) -> dict[str, Any]:
    """Tokens of a prompt and its responses, by column.

    Raises:
        LeftOut: a response is missing, the conversation does not fit the template or the limits.
    """
    for name, response in responses.items():
        if response is None:
            raise LeftOut(RejectKind.INVALID, f"no_{name}", f"{name} is null")
        if name in LISTS and len(response) < 2:
            why = f"{name}: found {len(response)}, a list needs two to compare"
            raise LeftOut(RejectKind.FILTERED, "fewer_than_two_responses", why)
    found: dict[str, Any] = {}
    try:
        found[prompt] = tokens.encode_prompt(tokenizer, messages)
        for name, response in responses.items():
            texts = response if name in LISTS else [response]
            encoded = [tokens.encode_response(tokenizer, messages, text) for text in texts]
            found[name] = encoded if name in LISTS else encoded[0]
    except ValueError as error:
        raise LeftOut(RejectKind.INVALID, "untokenisable", str(error)) from error
    longest_prompt = None if prompt == RATIONALE_PROMPT else encoding.max_prompt_length
    for name in responses:
        longest = max(found[name], key=len) if name in LISTS else found[name]
        over = tokens.over_long(found[prompt], longest, encoding.max_length, longest_prompt)
        if over:
            reason = "rationale_over_long" if name == "rationale" else "over_long"
            raise LeftOut(RejectKind.LIMIT, reason, f"{name}: {over}")
    return found


def tokens_hash(example: Mapping[str, Any]) -> str:
    """Hash of a row's tokens (16 hex digits): reference log-probabilities hold for these."""
    kinds = [names for names in REFERENCED.values() if names[0] in example]
    assert len(kinds) == 1, f"one type of rows, found {sorted(example)}"
    parts = [example[column] for column in ("prompt", *kinds[0]) if column in example]
    return xxhash.xxh3_64_hexdigest(json.dumps(parts).encode())
