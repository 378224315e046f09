"""From examples of tasks to the tensors that the base model learns from."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from rayonale.tinyworld.rubric import score
from rayonale.tinyworld.tasks import Example


@dataclass(frozen=True)
class Row:
    """ids: tokens of the turn; prompt: how many of them are of the prompt; ends: last
    token of each response that is scored; values: its attributes, 0–4, [6] each."""

    ids: list[int]
    prompt: int
    ends: list[int]
    values: list[list[int]]


@dataclass(frozen=True)
class Batch:
    """ids [B, T], padded on the right; answer [B, T]: whether a token is of the answer;
    rows, columns [P]: the last tokens of responses; values [P, 6]: attributes, 0–4."""

    ids: Tensor
    answer: Tensor
    rows: Tensor
    columns: Tensor
    values: Tensor


def tokenise(item: Example, tokenizer: PreTrainedTokenizerFast) -> Row:
    """The tokens of an example, and where its responses end."""
    system = [{"role": "system", "content": item.system}] if item.system else []
    messages = [*system, {"role": "user", "content": item.user}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    answer_ids = tokenizer(item.answer, add_special_tokens=False).input_ids
    prompt = len(encoded.input_ids)
    ends, position = [], 0
    for response in item.shown:
        position = text.find(response, position) + len(response)
        if response == item.answer:
            ends.append(prompt + len(answer_ids))
        else:
            ends.append(bisect_left(encoded.offset_mapping, position, key=lambda pair: pair[1]))
    values = [
        [value - 1 for value in score(item.prompt, response).attributes.values()]
        for response in item.shown
    ]
    return Row([*encoded.input_ids, *answer_ids, tokenizer.eos_token_id], prompt, ends, values)


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
        ids, answer = torch.full(shape, pad), torch.zeros(shape, dtype=torch.bool)
        for index, row in enumerate(group):
            ids[index, : len(row.ids)] = torch.tensor(row.ids)
            answer[index, row.prompt : len(row.ids)] = True
        yield Batch(
            ids,
            answer,
            torch.tensor([index for index, row in enumerate(group) for _ in row.ends]),
            torch.tensor([end for row in group for end in row.ends]),
            torch.tensor([value for row in group for value in row.values]),
        )
