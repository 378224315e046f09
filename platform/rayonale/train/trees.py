"""Trees: a prompt and the responses that follow it, in numbers only (no torch here).

What is packed and how is drawn in `batches.py`. A *sequence* is what a loss reads of a row: one
response (`chosen`), a list of them (`responses`), or the prompt's own tokens (`prompt`).

A rationale whose prompt begins with the row's prompt and chosen response goes on from that
response in their tree, instead of being a tree of its own: those tokens are computed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PROMPT = "prompt"
RATIONALE_PROMPT = "rationale_prompt"
# `shared_tokens` of a shard: what `shared_tokens` found in each row.
SHARED = "shared"
LISTS = ("responses",)  # a list of responses in each row

# Which prompt each response follows; responses with one prompt form a tree.
PROMPT_OF = {
    "chosen": PROMPT,
    "rejected": PROMPT,
    "response": PROMPT,
    "mismatched": PROMPT,
    "responses": PROMPT,
    "rationale": RATIONALE_PROMPT,
}
# Columns that hold the responses, by the type of rows (`records.ROW_TYPES`).
RESPONSES_OF = {
    "pair": ("chosen", "rejected"),
    "labelled": ("response",),
    "ranked_list": ("responses",),
}
# Sequences whose log-probabilities under a reference are stored, by the type of rows.
REFERENCED = {**RESPONSES_OF, "labelled": ("response", "mismatched")}


def reference_column(sequence: str) -> str:
    """Column of a sequence's log-probability under the reference."""
    return f"ref_{sequence}_logprob"


def row_type_of(columns: Sequence[str]) -> str:
    """Type of rows with these columns.

    Raises:
        ValueError: they hold no responses.
    """
    for kind, texts in RESPONSES_OF.items():
        if all(name in columns for name in texts):
            return kind
    expected = "; ".join(f"{' and '.join(t)} ({kind})" for kind, t in RESPONSES_OF.items())
    raise ValueError(f"rows without responses; expected {expected}; found: {', '.join(columns)}")


def responses_among(sequences: Sequence[str]) -> tuple[str, ...]:
    """The sequences that follow a prompt: all but the prompt itself."""
    return tuple(name for name in sequences if name != PROMPT)


def trees_of(sequences: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Prompt column → the sequences that follow it."""
    trees: dict[str, tuple[str, ...]] = {}
    for name in responses_among(sequences):
        trees[PROMPT_OF[name]] = (*trees.get(PROMPT_OF[name], ()), name)
    return trees


def may_share(sequences: Sequence[str]) -> bool:
    """Whether a rationale among the sequences can go on from the chosen response."""
    return "chosen" in sequences and "rationale" in sequences


def shared_tokens(row: Mapping[str, Any]) -> int:
    """Tokens of prompt and chosen response where the rationale's prompt begins with them, else 0.

    Args:
        row: token lists by column.
    """
    above = [*row[PROMPT], *row["chosen"]]
    return len(above) if row[RATIONALE_PROMPT][: len(above)] == above else 0


def tree_length(
    prompt: int, responses: Sequence[int], whole: bool = False, continuation: int = 0
) -> int:
    """Tokens that a tree puts into the model.

    A response's last token predicts nothing and stays out, unless responses are `whole`: its
    reward is read there.

    Args:
        continuation: tokens that go on from a response: of a prompt, and of what follows it. The
            response's last token goes in for them, and their own last one does not (or, where
            responses are whole, the other way round).
    """
    return prompt + sum(response - (not whole) for response in responses) + continuation


def first_fit(lengths: Sequence[int]) -> list[list[int]]:
    """Pack items into bins as long as the longest one, longest first (first fit decreasing)."""
    room: list[int] = []
    bins: list[list[int]] = []
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        for number, free in enumerate(room):
            if lengths[item] <= free:
                bins[number].append(item)
                room[number] -= lengths[item]
                break
        else:
            bins.append([item])
            room.append(max(lengths) - lengths[item])
    return bins
