"""From token lists to tensors: several responses share one computation of their prompt.

A *tree* is a prompt and the responses that follow it. A pair is one tree of two responses, its
rationale another tree (the prompt there shows both responses). Trees are laid side by side in
packed rows; the mask lets a token see its own tree's prompt and its own segment, so every
response's log-probability is what it would be alone.

    tree      | prompt  x x x x | chosen c c c | rejected r r |
    position  |         0 1 2 3 |        4 5 6 |          4 5 |      ← both follow the prompt
    segment   |         0 0 0 0 |        1 1 1 |          2 2 |

A list's responses all follow one prompt in the same way. A response's last token predicts nothing
and is left out; where rewards are wanted it goes in, because they are read there (`whole`).

A rationale whose prompt begins with x and chosen (found from the tokens) goes on from chosen: more
tokens of its segment, further along, from which rejected, between them, is hidden. Chosen's last
token goes in for them. So the pair lies as it does without a rationale.

    tree      | prompt  x x x x | chosen c c c | rejected r r | rationale c q q  w  w |
    position  |         0 1 2 3 |        4 5 6 |          4 5 |           7 8 9 10 11 |
    segment   |         0 0 0 0 |        1 1 1 |          2 2 |           1 1 1  1  1 |

q is the rest of the rationale's prompt: nothing predicts it, its last token predicts the first w.

Legend: B packed rows, L tokens a row, N response tokens of the batch, S sequences (responses),
P rows of the data (pairs, labelled responses, lists), K responses of the longest list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayonale.train.trees import (
    LISTS,
    PROMPT,
    RATIONALE_PROMPT,
    first_fit,
    may_share,
    shared_tokens,
    tree_length,
    trees_of,
)

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
            `target`; the last prompt token predicts the first token of each response. Of a
            prompt that goes on from a response only the response's own tokens are predicted.
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
    followed = trees_of(sequences)
    index: dict[str, list[Any]] = {name: [] for name in sequences}
    count = 0

    def next_number(_: Any) -> int:
        nonlocal count
        count += 1
        return count - 1

    for row in rows:
        made: dict[str, Tree] = {}
        for prompt, names in followed.items():
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
            made[prompt] = Tree(row[prompt], responses, own)
        if may_share(sequences) and (above := shared_tokens(row)):
            after, rationale = followed[PROMPT].index("chosen"), made.pop(RATIONALE_PROMPT)
            made[PROMPT] = _joined(made[PROMPT], after, rationale, above)
        trees += made.values()
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
class Continuation:
    """What goes on from a response: more of a prompt, and a response to that.

    Attributes:
        after: place of the response, among those of the tree.
        prompt: tokens that follow it.
        number, response: the second response's.
    """

    after: int
    prompt: list[int]
    number: int
    response: list[int]


@dataclass(frozen=True)
class Tree:
    """Tokens of a prompt, (number, tokens) of its responses, and its own number as a sequence."""

    prompt: list[int]
    responses: list[tuple[int, list[int]]]
    own: int | None = None
    continuation: Continuation | None = None

    def length(self, whole: bool) -> int:
        """Tokens that it puts into the model."""
        more = self.continuation
        goes_on = 0 if more is None else len(more.prompt) + len(more.response)
        lengths = [len(response) for _, response in self.responses]
        return tree_length(len(self.prompt), lengths, whole, goes_on)


def _joined(pair: Tree, after: int, rationale: Tree, above: int) -> Tree:
    """The pair's tree with the rationale's, whose first `above` tokens it has, after a response."""
    ((number, response),) = rationale.responses
    return replace(
        pair, continuation=Continuation(after, rationale.prompt[above:], number, response)
    )


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
    lengths = [-(-tree.length(whole) // align) * align for tree in trees]
    bins = [list(range(len(trees)))] if one_row else first_fit(lengths)
    width = max(sum(lengths[tree] for tree in members) for members in bins)
    found = _Layout((len(bins), width), whole)
    for row, members in enumerate(bins):
        start = row * width
        for tree in members:
            found.put(trees[tree], tree, start)
            start += lengths[tree]
    return found.tensors()


@dataclass
class _Layout:
    """Packed rows as they are filled; places are those of the flattened [B·L]."""

    shape: tuple[int, int]
    whole: bool
    predictor: list[int] = field(default_factory=list)
    target: list[int] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    last: dict[int, int] = field(default_factory=dict)  # by sequence

    def __post_init__(self) -> None:
        size = self.shape[0] * self.shape[1]
        self.tokens, self.positions = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self.tree, self.segment = np.full(size, -1, np.int32), np.zeros(size, np.int32)

    def put(self, tree: Tree, number: int, start: int) -> None:
        """Lay a tree out from `start` on."""
        end = self._run(tree.prompt, start, position=0, tree=number, segment=0)
        last_of_prompt = end - 1
        if tree.own is not None:
            self._predict(tree.own, tree.prompt[1:], start, start + 1)
            self.last[tree.own] = last_of_prompt
        for segment, (owner, response) in enumerate(tree.responses, 1):
            begin, some = end, response if self.whole else response[:-1]
            end = self._run(some, begin, position=len(tree.prompt), tree=number, segment=segment)
            self._predict(owner, response, last_of_prompt, begin)
            self.last[owner] = end - 1
        if tree.continuation is not None:
            self._put_continuation(tree, tree.continuation, number, end)

    def _put_continuation(self, tree: Tree, more: Continuation, number: int, begin: int) -> None:
        before, above = tree.responses[more.after]
        # The last token of the response above: where it did not go in there, it opens the run.
        opening = more.prompt if self.whole else [*above[-1:], *more.prompt]
        some = more.response if self.whole else more.response[:-1]
        position = len(tree.prompt) + len(above) - (not self.whole)
        end = self._run(
            [*opening, *some], begin, position=position, tree=number, segment=more.after + 1
        )
        first = begin + len(opening)
        last = first - 1 if opening else self.last[before]
        self._predict(more.number, more.response, last, first)
        self.last[more.number] = end - 1

    def _run(self, tokens: list[int], start: int, *, position: int, tree: int, segment: int) -> int:
        """Put a run of tokens; returns where it ends."""
        end = start + len(tokens)
        self.tokens[start:end] = tokens
        self.positions[start:end] = position + np.arange(len(tokens))
        self.tree[start:end], self.segment[start:end] = tree, segment
        return end

    def _predict(self, owner: int, tokens: list[int], first: int, rest: int) -> None:
        """The place `first` predicts the first of the tokens, those from `rest` on the others."""
        self.predictor += [first, *range(rest, rest + len(tokens) - 1)][: len(tokens)]
        self.target += tokens
        self.owner += [owner] * len(tokens)

    def tensors(self) -> dict[str, Any]:
        """What a batch holds of it."""
        rows = {name: getattr(self, name) for name in ("tokens", "positions", "tree", "segment")}
        last = [self.last[number] for number in sorted(self.last)]
        return {
            **{name: torch.from_numpy(row.reshape(self.shape)) for name, row in rows.items()},
            "predictor": torch.tensor(self.predictor),
            "target": torch.tensor(self.target),
            "owner": torch.tensor(self.owner),
            "last": torch.tensor(last) if self.whole else None,
        }
