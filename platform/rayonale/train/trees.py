"""Trees: a prompt and the responses that follow it, in numbers only (no torch here).

What is packed and how is drawn in `batches.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

# Which prompt each response follows; responses with one prompt form a tree.
PROMPT_OF = {"chosen": "prompt", "rejected": "prompt", "rationale": "rationale_prompt"}


def trees_of(sequences: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Prompt column → the sequences that follow it."""
    trees: dict[str, tuple[str, ...]] = {}
    for name in sequences:
        trees[PROMPT_OF[name]] = (*trees.get(PROMPT_OF[name], ()), name)
    return trees


def tree_length(prompt: int, responses: Sequence[int]) -> int:
    """Tokens that a tree puts into the model: a response's last token predicts nothing."""
    return prompt + sum(response - 1 for response in responses)


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
