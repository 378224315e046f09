"""Reward models in Transformers: one forward pass over padded batches of similar length."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rayonale import models
from rayonale.train import reward_head

# Of one padded batch, padding included.
BATCH_TOKENS = 8_192


def load(path: str, dtype: str) -> Any:
    """A module: (tokens [B, L], mask [B, L], last [B]) → rewards [B, labels], float32."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    name, revision = models.pinned(path)
    options = {"revision": revision, "dtype": getattr(torch, dtype)}
    if reward_head.has_head(name):
        backbone = AutoModelForCausalLM.from_pretrained(name, **options).get_decoder()
        return AtLastToken(backbone, reward_head.load(name))
    model = AutoModelForSequenceClassification.from_pretrained(name, **options)
    score = getattr(model, "score", None)
    if score is None:  # an encoder, with a classifier over its first token
        return Whole(model)
    return AtLastToken(getattr(model, model.base_model_prefix), score)


class AtLastToken(nn.Module):
    """A backbone and a linear head, read at the last real token whatever the padding is."""

    def __init__(self, backbone: Any, head: Any) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, tokens: Tensor, mask: Tensor, last: Tensor) -> Tensor:
        """See `load`."""
        states = self.backbone(input_ids=tokens, attention_mask=mask).last_hidden_state
        rewards: Tensor = self.head(states[torch.arange(len(last), device=last.device), last])
        return rewards.float().reshape(len(last), -1)


class Whole(nn.Module):
    """A sequence classifier that finds its own place to read."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, mask: Tensor, last: Tensor) -> Tensor:
        """See `load`."""
        logits: Tensor = self.model(input_ids=tokens, attention_mask=mask).logits
        return logits.float()


def scored(model: Any, listed: list[list[int]], device: Any, most: int) -> list[list[float]]:
    """Values of conversations in their order, computed in padded batches of similar length."""
    found: list[list[float]] = [[] for _ in listed]
    order = sorted(range(len(listed)), key=lambda place: -len(listed[place]))
    with torch.inference_mode():
        while order:
            longest = len(listed[order[0]])
            size = max(1, min(most, BATCH_TOKENS // longest))
            batch, order = order[:size], order[size:]
            tokens = torch.zeros(len(batch), longest, dtype=torch.int64)
            mask = torch.zeros(len(batch), longest, dtype=torch.int64)
            for row, place in enumerate(batch):
                tokens[row, : len(listed[place])] = torch.tensor(listed[place])
                mask[row, : len(listed[place])] = 1
            last = mask.sum(1) - 1
            values = model(tokens.to(device), mask.to(device), last.to(device)).tolist()
            for place, value in zip(batch, values, strict=True):
                found[place] = value
    return found
