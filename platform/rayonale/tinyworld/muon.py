"""Muon in float32: momentum whose matrices are orthogonalised before the step.

After Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/), with the step
scaled by sqrt(max(1, rows / columns)). `torch.optim.Muon` computes in bfloat16, which
processors without such instructions do fifty times slower.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter


def orthogonalise(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Nearly orthogonal matrices with the singular vectors of the given ones, [N, R, C].

    Quintic Newton-Schulz iteration: singular values end between about 0.7 and 1.2.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for matrices only."""

    def __init__(
        self, params: Iterable[Parameter], lr: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient; matrices of one shape go together."""
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                moved = orthogonalise(
                    torch.stack([self._direction(p, group["momentum"]) for p in parameters])
                )
                for parameter, direction in zip(parameters, moved, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(direction, alpha=-group["lr"] * scale)

    def _direction(self, parameter: Parameter, momentum: float) -> Tensor:
        state = self.state[parameter]
        assert parameter.grad is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        average: Tensor = state["momentum"]
        average.lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(average, momentum)
