"""The nouns that cross stages, as Arrow schemas with an example each.

A *row* is one record in a stage's Parquet output. Stages add columns; they never change
the `id`, which is written at ingestion and is the row's name in every later stage.

    Message        {"role": "user", "content": "Name two birds."}
    Pair           prompt + chosen + rejected, the unit of preference learning
    LabelledRow    prompt + response + label (KTO-like, unpaired)
    RankedList     prompt + k responses + k scores (RRHF, InfoNCA, best-of-n)
    JudgementSet   one judged input + N judgements of it
    Rationale      one sampled explanation of a preference (nested in a pair's row)
    Reject         a row that left the flow, with its reason
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NotRequired, TypedDict

import pyarrow as pa


class Message(TypedDict):
    """One chat turn: `{"role": "system" | "user" | "assistant", "content": "..."}`."""

    role: str
    content: str


ROLES = ("system", "user", "assistant")

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

# Columns that every row type carries: where it came from.
_ORIGIN: list[tuple[str, pa.DataType]] = [
    ("id", pa.string()),  # content hash, 32 hex digits
    ("split", pa.string()),  # train | validation | test, by hash of the prompt
    ("source", pa.string()),  # URI of the raw file or data set
    ("line", pa.int64()),  # 1-based line (JSONL) or row number in `source`
    ("format", pa.string()),  # name of the format function that read it
    ("annotator", pa.string()),  # null when the source names none
    ("occurrence", pa.int64()),  # 0 for the first (content, annotator), 1 for the second …
]


class Pair(TypedDict):
    """A preference pair.

    Example::

        {"id": "3f0c…", "split": "train", "source": "pairs.jsonl", "line": 7,
         "format": "hh_rlhf", "annotator": None, "occurrence": 0,
         "prompt":   [{"role": "user", "content": "Name two birds."}],
         "chosen":   [{"role": "assistant", "content": "robin, wren"}],
         "rejected": [{"role": "assistant", "content": "robin, oak"}],
         "score_chosen": 9.0, "score_rejected": 5.0, "confidence": 8.0,
         "metadata": "{\\"category\\": \\"lists\\"}"}
    """

    id: str
    split: str
    source: str
    line: int
    format: str
    annotator: str | None
    occurrence: int
    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    score_chosen: float | None
    score_rejected: float | None
    confidence: float | None
    metadata: str  # JSON object
    # Added by later stages:
    rationales: NotRequired[list[dict[str, Any]]]
    ref_chosen_logprob: NotRequired[float]
    ref_rejected_logprob: NotRequired[float]


PAIR = pa.schema(
    [
        *_ORIGIN,
        ("prompt", MESSAGES),
        ("chosen", MESSAGES),
        ("rejected", MESSAGES),
        ("score_chosen", pa.float64()),
        ("score_rejected", pa.float64()),
        ("confidence", pa.float64()),
        ("metadata", pa.string()),
    ]
)

LABELLED_ROW = pa.schema(
    [
        *_ORIGIN,
        ("prompt", MESSAGES),
        ("response", MESSAGES),
        ("label", pa.bool_()),  # True = desired
        ("score", pa.float64()),
        ("metadata", pa.string()),
    ]
)

RANKED_LIST = pa.schema(
    [
        *_ORIGIN,
        ("prompt", MESSAGES),
        ("responses", pa.list_(MESSAGES)),
        ("scores", pa.list_(pa.float64())),
        ("metadata", pa.string()),
    ]
)

# What a judgement is of: one response of one (null), both with the first or the second shown first
# (ab, ba), or the first or second of two by itself (a, b).
ORDERS = (None, "ab", "ba", "a", "b")

JUDGEMENT = pa.struct(
    [
        ("text", pa.string()),  # raw, as the judge wrote it
        ("rationale", pa.string()),
        # 1-5, or 1 / 2 (1.5: tie) in terms of the row's `responses`, whatever the order shown;
        # null when unreadable: never a default
        ("verdict", pa.float64()),
        ("expected", pa.float64()),  # mean verdict under the token probabilities, where asked for
        ("status", pa.string()),  # ok | unreadable
        ("reason", pa.string()),  # why it is unreadable
        ("order", pa.string()),  # one of ORDERS
        ("seed", pa.int64()),  # null where nothing is drawn
        ("tokens", pa.int64()),
        ("finish_reason", pa.string()),  # stop | length
        ("prompt_fingerprint", pa.string()),  # hash of the prompt that the judge was shown
        ("rating", pa.float64()),  # 1-5, by a judge of judgements; null until rated
    ]
)

JUDGEMENT_SET = pa.schema(
    [
        *_ORIGIN,
        ("prompt", MESSAGES),
        ("responses", pa.list_(MESSAGES)),  # one (pointwise) or two (pairwise)
        ("label", pa.float64()),  # score 1-5, or 1/2 (1.5: tie) for pairwise; null when unknown
        ("rubric", pa.string()),  # what the scores mean, as the judge is shown it; may be null
        ("reference", pa.string()),  # a reference answer; may be null
        ("judgements", pa.list_(JUDGEMENT)),
        ("metadata", pa.string()),
    ]
)

# A sampled rationale, nested in a pair's `rationales` column (one element a sample).
RATIONALE = pa.struct(
    [
        ("text", pa.string()),
        ("style", pa.string()),  # general | detailed | the template's name
        ("chosen_first", pa.bool_()),  # the order in which the prompt showed the responses
        ("seed", pa.int64()),
        ("tokens", pa.int64()),
        ("finish_reason", pa.string()),  # stop | length
        (
            "grades",
            pa.struct(
                [
                    (name, pa.int64())
                    for name in ("helpfulness", "relatedness", "correctness", "coherence")
                ]
            ),
        ),  # null until graded
    ]
)

# The columns of a row type, by the name that manifests and settings use.
ROW_TYPES: dict[str, pa.Schema] = {
    "pair": PAIR,
    "labelled": LABELLED_ROW,
    "ranked_list": RANKED_LIST,
    "judgement_set": JUDGEMENT_SET,
}


class RejectKind(StrEnum):
    """Why a row left the flow; the three are counted apart."""

    INVALID = "invalid"  # malformed input, unparsable output
    FILTERED = "filtered"  # a rule dropped it (grades, equal scores)
    LIMIT = "limit"  # too long, too many


class Reject(TypedDict):
    """A row that left the flow.

    Example::

        {"id": None, "kind": "invalid", "reason": "unparsable_line",
         "detail": "pairs.jsonl:12: Expecting ',' delimiter: column 40",
         "source": "pairs.jsonl", "line": 12, "row": "{\\"chosen\\": …"}
    """

    id: str | None
    kind: str  # a RejectKind
    reason: str  # a code: snake_case, few distinct values
    detail: str  # what was found, where, what was expected
    source: str | None
    line: int | None
    row: str  # the row as JSON, or the raw text


REJECT = pa.schema(
    [
        ("id", pa.string()),
        ("kind", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("source", pa.string()),
        ("line", pa.int64()),
        ("row", pa.string()),
    ]
)
