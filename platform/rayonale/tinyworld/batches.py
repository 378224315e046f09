"""From examples of tasks to the tensors that the base model learns from."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from rayonale.tinyworld.probes import slots_of
from rayonale.tinyworld.requests import parse
from rayonale.tinyworld.rubric import score
from rayonale.tinyworld.tasks import Example


@dataclass(frozen=True)
class Row:
    """ids: tokens of the turn; prompt: how many of them are of the prompt; starts, ends:
    first and last token of each response that is scored; values: its attributes, 0–4, [6]
    each; slots: the request, [7]."""

    ids: list[int]
    prompt: int
    starts: list[int]
    ends: list[int]
    values: list[list[int]]
    slots: list[int]


@dataclass(frozen=True)
class Batch:
    """ids [B, T], padded on the right; answer, shown [B, T]: whether a token is of the
    answer, or of a response in the prompt;
    rows, columns [P]: the last tokens of responses; values [P, 6]: attributes, 0–4;
    asked_rows, asked_columns [Q]: these and the last tokens of prompts; slots [Q, 7]: the
    requests there."""

    ids: Tensor
    answer: Tensor
    shown: Tensor
    rows: Tensor
    columns: Tensor
    values: Tensor
    asked_rows: Tensor
    asked_columns: Tensor
    slots: Tensor


def tokenise(item: Example, tokenizer: PreTrainedTokenizerFast) -> Row:
    """The tokens of an example, and where its responses end."""
    system = [{"role": "system", "content": item.system}] if item.system else []
    messages = [*system, {"role": "user", "content": item.user}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    answer_ids = tokenizer(item.answer, add_special_tokens=False).input_ids
    prompt = len(encoded.input_ids)
    starts, ends, position = [], [], 0
    for response in item.shown:
        if response == item.answer:
            starts.append(prompt)
            ends.append(prompt + len(answer_ids))
            continue
        begin = text.find(response, position)
        position = begin + len(response)
        # A token may hold the space before the response.
        starts.append(bisect_right(encoded.offset_mapping, begin, key=lambda pair: pair[1]))
        ends.append(bisect_left(encoded.offset_mapping, position, key=lambda pair: pair[1]))
    values = [
        [value - 1 for value in score(item.prompt, response).attributes.values()]
        for response in item.shown
    ]
    ids = [*encoded.input_ids, *answer_ids, tokenizer.eos_token_id]
    return Row(ids, prompt, starts, ends, values, slots_of(parse(item.prompt)))


def micro_batches(rows: list[Row], count: int, pad: int) -> Iterator[Batch]:
    """Cut rows, sorted by length, into `count` batches of about equal tokens."""
    ordered = sorted(rows, key=lambda row: len(row.ids))
    total = sum(len(row.ids) for row in ordered)
    groups: list[list[Row]] = [[] for _ in range(count)]
    seen = 0
    for row in ordered:
        groups[min(count - 1, seen * count // total)].append(row)
        seen += len(row.ids)
    for group in filter(None, groups):
        shape = (len(group), len(group[-1].ids))
        ids = torch.full(shape, pad)
        answer, shown = torch.zeros((2, *shape), dtype=torch.bool)
        for index, row in enumerate(group):
            ids[index, : len(row.ids)] = torch.tensor(row.ids)
            answer[index, row.prompt : len(row.ids)] = True
            for start, end in zip(row.starts, row.ends, strict=True):
                shown[index, start : end + 1] = True
        asked = [
            (index, column, row.slots)
            for index, row in enumerate(group)
            for column in (*row.ends, row.prompt - 1)
        ]
        yield Batch(
            ids,
            answer,
            shown & ~answer,
            torch.tensor([index for index, row in enumerate(group) for _ in row.ends]),
            torch.tensor([end for row in group for end in row.ends]),
            torch.tensor([value for row in group for value in row.values]),
            torch.tensor([index for index, _, _ in asked]),
            torch.tensor([column for _, column, _ in asked]),
            torch.tensor([slots for _, _, slots in asked]),
        )
