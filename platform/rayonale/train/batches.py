"""From token lists to tensors: several responses share one computation of their prompt.

A *tree* is a prompt and the responses that follow it. A pair is one tree of two responses, its
rationale another tree (the prompt there shows both responses). Trees are laid side by side in
packed rows; the mask lets a token see its own tree's prompt and its own response, so every
response's log-probability is what it would be alone.

    tree      | prompt  x x x x | chosen c c c | rejected r r |
    position  |         0 1 2 3 |        4 5 6 |          4 5 |      ← both follow the prompt
    segment   |         0 0 0 0 |        1 1 1 |          2 2 |

A list's responses all follow one prompt in the same way. A response's last token predicts nothing
and is left out; where rewards are wanted it goes in, because they are read there (`whole`).

Legend: B packed rows, L tokens a row, N response tokens of the batch, S sequences (responses),
P rows of the data (pairs, labelled responses, lists), K responses of the longest list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayonale.train.trees import LISTS, PROMPT, first_fit, tree_length, trees_of

# In bfloat16 a last digit is worth 0.01 nats of a response, so a log-probability must not depend
# on what else is in the batch: kernels sum in blocks, and trees that start at multiples of a block
# get the same sums wherever they lie (seen to be exact on CPU; on GPUs it is not promised).
ALIGN = {"float32": 1, "bfloat16": 16}


@dataclass(frozen=True)
class Batch:
    """One micro-batch on one worker.

    Attributes:
        tokens, positions, tree, segment: [B, L]; `tree` is −1 on padding.
        predictor: [N] index into the flattened [B·L] of the token whose output predicts
            `target`; the last prompt token predicts the first token of each response.
        target: [N] token ids.
        owner: [N] which of the S sequences a target belongs to.
        sequence: name → [P] index among the S sequences; of a list [P, K], −1 where it is shorter.
        length: name → number of predicted tokens, float32, shaped so; 1 where a list is shorter.
        value: name → [P] float32, columns of the rows; of lists [P, K], 0 where they are shorter.
        weight: [P] 1, or 0 for a row that only fills a worker's turn.
        last: [S] index into [B·L] of each sequence's last token, where responses are whole.
    """

    tokens: Tensor
    positions: Tensor
    tree: Tensor
    segment: Tensor
    predictor: Tensor
    target: Tensor
    owner: Tensor
    sequence: dict[str, Tensor]
    length: dict[str, Tensor]
    value: dict[str, Tensor]
    weight: Tensor
    last: Tensor | None = None

    def inputs(self, device: torch.device | str) -> dict[str, Tensor]:
        """What the policy's forward takes, on its device."""
        names = ("tokens", "positions", "tree", "segment", "predictor", "target", "owner")
        tensors = {name: getattr(self, name).to(device) for name in names}
        count = sum(int((index >= 0).sum()) for index in self.sequence.values())
        tensors["owners"] = torch.zeros(count, device=device)
        if self.last is not None:
            tensors["last"] = self.last.to(device)
        return tensors

    @property
    def mask(self) -> Tensor | None:
        """[P, K] bool, which entries of lists are there; None without lists."""
        for name in LISTS:
            if name in self.sequence:
                return self.sequence[name] >= 0
        return None

    @property
    def padding(self) -> tuple[int, int]:
        """Padding tokens and all tokens."""
        return int((self.tree < 0).sum()), self.tree.numel()


def collate(
    rows: Sequence[Mapping[str, Any]],
    sequences: Sequence[str],
    *,
    values: Sequence[str] = (),
    filler: bool = False,
    align: int = 1,
    one_row: bool = False,
    whole: bool = False,
) -> Batch:
    """Lay out rows (token lists by column name, as in a shard) as one packed batch.

    Args:
        sequences: the responses to compute; `prompt` asks for the prompt's tokens too.
        values: numeric columns to pass on.
        filler: the rows only fill a worker's turn; their weight is 0.
        align: trees start at multiples of so many tokens; see `ALIGN`.
        one_row: all trees in one row without padding; else in rows as long as the longest tree.
        whole: responses go in with their last token, where rewards are read.
    """
    trees: list[Tree] = []
    index: dict[str, list[Any]] = {name: [] for name in sequences}
    count = 0

    def next_number(_: Any) -> int:
        nonlocal count
        count += 1
        return count - 1

    for row in rows:
        for prompt, names in trees_of(sequences).items():
            responses: list[tuple[int, list[int]]] = []
            for name in names:
                texts = row[name] if name in LISTS else [row[name]]
                numbers = [next_number(text) for text in texts]
                responses += zip(numbers, texts, strict=True)
                index[name].append(numbers if name in LISTS else numbers[0])
            own = None
            if prompt == PROMPT and PROMPT in sequences:
                own = next_number(prompt)
                index[PROMPT].append(own)
            trees.append(Tree(row[prompt], responses, own))
    return Batch(
        **_lay_out(trees, align, one_row=one_row, whole=whole),
        sequence={name: _tensor(found, -1, torch.int64) for name, found in index.items()},
        length={
            name: _tensor([_predicted(name, row[name]) for row in rows], 1, torch.float32)
            for name in sequences
        },
        value={name: _tensor([row[name] for row in rows], 0, torch.float32) for name in values},
        weight=torch.full((len(rows),), 0.0 if filler else 1.0),
    )


@dataclass(frozen=True)
class Tree:
    """Tokens of a prompt, (number, tokens) of its responses, and its own number as a sequence."""

    prompt: list[int]
    responses: list[tuple[int, list[int]]]
    own: int | None = None


def _predicted(name: str, tokens: Any) -> Any:
    """How many tokens of a sequence something predicts: nothing predicts a prompt's first."""
    if name in LISTS:
        return [len(each) for each in tokens]
    return len(tokens) - (name == PROMPT)


def _tensor(rows: list[Any], padding: int, dtype: torch.dtype) -> Tensor:
    """[P] of numbers, or [P, K] of lists, padded."""
    if rows and isinstance(rows[0], list):
        longest = max(len(row) for row in rows)
        rows = [[*row, *[padding] * (longest - len(row))] for row in rows]
    return torch.tensor(rows, dtype=dtype)


def _lay_out(trees: list[Tree], align: int, *, one_row: bool, whole: bool) -> dict[str, Any]:
    lengths = [
        -(-tree_length(len(t.prompt), [len(r) for _, r in t.responses], whole) // align) * align
        for t in trees
    ]
    bins = [list(range(len(trees)))] if one_row else first_fit(lengths)
    shape = (len(bins), max(sum(lengths[tree] for tree in members) for members in bins))
    tokens, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    tree_ids, segments = np.full(shape, -1, np.int32), np.zeros(shape, np.int32)
    predictor: list[int] = []
    target: list[int] = []
    owner: list[Any] = []
    last: dict[int, int] = {}  # by sequence
    for row, members in enumerate(bins):
        start = 0
        for tree in members:
            prompt = trees[tree].prompt
            end = start + len(prompt)
            tokens[row, start:end], positions[row, start:end] = prompt, np.arange(len(prompt))
            last_of_prompt = row * shape[1] + end - 1
            if trees[tree].own is not None:
                predictor.extend(range(row * shape[1] + start, last_of_prompt))
                target.extend(prompt[1:])
                owner.extend([trees[tree].own] * (len(prompt) - 1))
                last[trees[tree].own] = last_of_prompt  # type: ignore[index]
            for segment, (number, response) in enumerate(trees[tree].responses, 1):
                predicting = end + len(response) - 1
                stop = predicting + whole
                tokens[row, end:stop] = response[: stop - end]
                positions[row, end:stop] = len(prompt) + np.arange(stop - end)
                segments[row, end:stop] = segment
                predictor.append(last_of_prompt)
                predictor.extend(range(row * shape[1] + end, row * shape[1] + predicting))
                last[number] = row * shape[1] + stop - 1
                target.extend(response)
                owner.extend([number] * len(response))
                end = stop
            tree_ids[row, start:end] = tree
            start += lengths[tree]
    return {
        "tokens": torch.from_numpy(tokens),
        "positions": torch.from_numpy(positions),
        "tree": torch.from_numpy(tree_ids),
        "segment": torch.from_numpy(segments),
        "predictor": torch.tensor(predictor),
        "target": torch.tensor(target),
        "owner": torch.tensor(owner),
        "last": torch.tensor([last[n] for n in sorted(last)]) if whole else None,
    }
