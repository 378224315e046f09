"""The reward head: one linear map from the hidden state at a response's last token to a number.

    hidden state of the last token [H] ─ weight [1, H] ─► reward            (no bias)

The language model's own head stays. On disk the head lies in a folder of its own inside the
model's, where nothing that loads the causal LM looks:

    model/                              a plain Hugging Face causal LM
    model/reward_head/head.safetensors  {"weight": [1, H]}
    model/classifier/                   the same as a sequence-classification model (classifier.py)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rayonale.train.settings import RewardHeadSettings

FOLDER = "reward_head"
FILE = "head.safetensors"
_PREFIX = "reward_head."  # of its weight among a snapshot's


class RewardHead(nn.Module):
    """Rewards in float32, whatever the compute dtype.

    Args:
        size: H, size of a hidden state.
        weight: [1, H] to begin with; None leaves it at zero.
    """

    def __init__(self, size: int, weight: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, size) if weight is None else weight.float())

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states [S, H] → rewards [S], float32."""
        return (hidden.float() @ self.weight.float().T)[:, 0]


def hidden_size(model: Any) -> int:
    """Size of what the language model's head reads, which the reward head reads too."""
    return int(model.get_output_embeddings().weight.shape[1])


def make(model: Any, settings: RewardHeadSettings, seed: int, start: str) -> RewardHead:
    """A head for a model: drawn, or the one in the folder that training starts from.

    The same on every worker; heads of an ensemble differ by their seed alone.

    Args:
        seed: of the run, taken where the settings have none.
        start: folder of the model.

    Raises:
        ValueError: `init: start`, and the folder has no head.
    """
    if settings.init == "start":
        return load(start)
    draw = torch.Generator().manual_seed(seed if settings.seed is None else settings.seed)
    weight = torch.randn(1, hidden_size(model), generator=draw) * settings.std
    return RewardHead(weight.shape[1], weight)


def save(weight: Tensor, folder: Path) -> None:
    """Write a head's weight into a model's folder."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    save_file({"weight": weight.contiguous()}, folder / FOLDER / FILE, metadata={"format": "pt"})


def has_head(folder: str | Path) -> bool:
    """Whether a model's folder holds a reward head."""
    return (Path(folder) / FOLDER / FILE).is_file()


def load(folder: str | Path) -> RewardHead:
    """The head of a model's folder.

    Raises:
        ValueError: it has none.
    """
    if not has_head(folder):
        raise ValueError(
            f"{folder} has no reward head ({FOLDER}/{FILE}); expected a model that was trained "
            "with one and kept it: loss bradley_terry, or reward_head.keep: true"
        )
    weight = load_file(Path(folder) / FOLDER / FILE)["weight"]
    return RewardHead(weight.shape[1], weight)


def named(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A head's weights under their names in a snapshot."""
    return {f"{_PREFIX}{name}": tensor for name, tensor in weights.items()}


def split(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor | None]:
    """A snapshot's weights without the head's, and the head's."""
    rest = {name: tensor for name, tensor in weights.items() if not name.startswith(_PREFIX)}
    return rest, weights.get(f"{_PREFIX}weight")
