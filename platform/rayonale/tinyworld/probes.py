"""Linear probes that tell the base model, while it learns, what there is to see.

    layer 1   at every thing named             its kind, its place in the alphabet
    layer 3   at the end of each response      its six attributes
    layer 3   there and at the prompt's end    the seven slots of the request

All tasks of tinyworld rest on seeing these. Asked for them directly, a model of this size
learns them in a tenth of the steps. The probes are dropped when training ends.
"""

from dataclasses import astuple
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from rayonale.tinyworld.requests import Request
from rayonale.tinyworld.vocabulary import ATTRIBUTES, ENDINGS, KINDS, NUMBERS, PLACES, TONES

# Values of each field of a request, in the order of the fields.
_SLOTS: Final[tuple[tuple[object, ...], ...]] = (
    tuple(KINDS), tuple(NUMBERS.values()), (False, True), tuple(TONES), ENDINGS, PLACES,
    (False, True),
)  # fmt: skip
_THINGS: Final = 8


def slots_of(request: Request) -> list[int]:
    """The request as one class number for each of its seven slots."""
    return [values.index(value) for values, value in zip(_SLOTS, astuple(request), strict=True)]


class Probes(nn.Module):
    """The three probes; every method gives summed cross entropies in nats."""

    def __init__(self, hidden: int, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.attributes = nn.Linear(hidden, len(ATTRIBUTES) * 5)
        self.slots = nn.Linear(hidden, sum(map(len, _SLOTS)))
        self.things = nn.Linear(hidden, len(KINDS) + _THINGS)
        kind_of = torch.full((len(tokenizer),), -1)
        rank_of = torch.zeros(len(tokenizer), dtype=torch.long)
        for kind, things in enumerate(KINDS.values()):
            for rank, thing in enumerate(sorted(things)):
                token = tokenizer(f" {thing}", add_special_tokens=False).input_ids[-1]
                kind_of[token], rank_of[token] = kind, rank
        self.register_buffer("kind_of", kind_of)
        self.register_buffer("rank_of", rank_of)

    def of_attributes(self, hidden: Tensor, values: Tensor) -> Tensor:
        """hidden [P, H] at responses' ends; values [P, 6], 0–4."""
        read = self.attributes(_normal(hidden)).view(-1, 5)
        return functional.cross_entropy(read, values.view(-1), reduction="sum")

    def of_slots(self, hidden: Tensor, slots: Tensor) -> Tensor:
        """hidden [Q, H]; slots [Q, 7], class numbers as of `slots_of`."""
        edges = [0, *torch.tensor([len(values) for values in _SLOTS]).cumsum(0).tolist()]
        read = self.slots(_normal(hidden))
        losses = [
            functional.cross_entropy(read[:, start:end], slots[:, index], reduction="sum")
            for index, (start, end) in enumerate(pairwise(edges))
        ]
        return torch.stack(losses).sum()

    def of_things(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """hidden [B, T, H] of every token; ids [B, T]."""
        named = self.kind_of[ids] >= 0
        read, tokens = self.things(_normal(hidden[named])), ids[named]
        kinds, ranks = read[:, : len(KINDS)], read[:, len(KINDS) :]
        return functional.cross_entropy(
            kinds, self.kind_of[tokens], reduction="sum"
        ) + functional.cross_entropy(ranks, self.rank_of[tokens], reduction="sum")


def _normal(hidden: Tensor) -> Tensor:
    return functional.rms_norm(hidden, hidden.shape[-1:])
