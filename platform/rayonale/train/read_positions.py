"""The last layer's MLP, on the positions whose output is read and on no others.

    hidden states ─ attention (all: keys and values are needed) ─ MLP (read ones) ─► read positions

Of the decoder's output a packed batch reads the positions that predict response tokens, and those
of rewards. What the last MLP adds elsewhere nobody sees: with prompts longer than responses that is
most of its work, and of its activations. The numbers that are read are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class ReadPositions:
    """Stands around the forward of a decoder's last MLP; one without `mlp` is left alone."""

    def __init__(self, decoder: nn.Module) -> None:
        self._wanted: Tensor | None = None  # flat positions [R]; None: all
        self._tokens = 0  # B · L of the batch that they belong to
        mlp = last_mlp(decoder)
        if mlp is not None:
            # The instance's forward, so that the module keeps its name, its hooks and its weights.
            mlp.forward = self._around(mlp.forward)

    @contextmanager
    def only(self, tokens: Tensor, *positions: Tensor | None) -> Iterator[None]:
        """Within, a forward of tokens [B, L] needs right output at these flat positions only."""
        self._wanted = torch.cat([each for each in positions if each is not None]).unique()
        self._tokens = tokens.numel()
        try:
            yield
        finally:
            self._wanted = None

    def _around(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def on_wanted(hidden: Tensor, *rest: Any, **options: Any) -> Any:
            wanted = self._wanted
            if wanted is None or hidden.dim() != 3 or hidden[..., 0].numel() != self._tokens:
                return forward(hidden, *rest, **options)
            flat = hidden.flatten(0, 1)
            found = forward(flat[wanted][None], *rest, **options)
            told, more = (found, ()) if isinstance(found, Tensor) else (found[0], found[1:])
            spread = flat.new_zeros(flat.shape).index_copy(0, wanted, told[0]).view_as(hidden)
            return (spread, *more) if more else spread

        return on_wanted


def last_mlp(decoder: nn.Module) -> nn.Module | None:
    """The MLP of the last of a decoder's layers, where it is a module named `mlp`."""
    layers = [module for module in decoder.children() if isinstance(module, nn.ModuleList)]
    longest = max(layers, key=len, default=None)
    found = getattr(longest[-1], "mlp", None) if longest else None
    return found if isinstance(found, nn.Module) else None
