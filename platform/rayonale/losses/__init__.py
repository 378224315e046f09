"""Losses: pure functions of tensors, one family a file, and the registry of their names.

Adding a loss is one file that defines `LOSS` and one line here. Modules are loaded by name, so
a new loss does not change the code version of runs that use another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rayonale.losses.spec import Loss, LossSettings

REGISTRY: dict[str, str] = {
    "sft": "rayonale.losses.sft:LOSS",
    "dpo": "rayonale.losses.dpo:LOSS",
    "rdpo": "rayonale.losses.rdpo:LOSS",
    "rationale_only": "rayonale.losses.rationale:LOSS",
}


def get(name: str) -> Loss:
    """The loss of a name.

    Raises:
        ValueError: unknown name; the message lists the choices.
    """
    if name not in REGISTRY:
        raise ValueError(f"unknown loss {name!r}; choices: {', '.join(sorted(REGISTRY))}")
    module, _, attribute = REGISTRY[name].partition(":")
    loss: Loss = getattr(import_module(module), attribute)
    return loss


def parse(value: Any) -> LossSettings:
    """Settings of a loss from a mapping with its `name` (a bare name takes all defaults).

    Raises:
        ValueError: no name, unknown name, or (pydantic's) options that the loss does not have.
    """
    if isinstance(value, str):
        value = {"name": value}
    if isinstance(value, Mapping):
        if "name" not in value:
            raise ValueError(f"a loss needs a name; choices: {', '.join(sorted(REGISTRY))}")
        return get(str(value["name"])).settings.model_validate(dict(value))
    from rayonale.losses.spec import LossSettings

    if isinstance(value, LossSettings):
        return value
    raise ValueError(f"expected a loss name or a mapping with `name`, found {value!r}")


def module(name: str) -> str:
    """Module that defines a loss: a run's code version includes it."""
    get(name)
    return REGISTRY[name].partition(":")[0]
