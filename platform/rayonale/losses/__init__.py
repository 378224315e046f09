"""Losses: pure functions of tensors, one family a file, and the registry of their names.

Adding a loss is one file that defines it and one line here. Modules are loaded by name, so a new
loss does not change the code version of runs that use another one. `<name>+rationale` is any
loss of pairs with the rationale term on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rayonale.losses.spec import Loss, LossSettings

REGISTRY: dict[str, str] = {
    "sft": "rayonale.losses.sft:LOSS",
    "conditioned_sft": "rayonale.losses.conditioned_sft:LOSS",
    "dpo": "rayonale.losses.dpo:LOSS",
    "cdpo": "rayonale.losses.dpo:CDPO",
    "ipo": "rayonale.losses.ipo:LOSS",
    "kto": "rayonale.losses.kto:LOSS",
    "slic": "rayonale.losses.slic:LOSS",
    "hinge": "rayonale.losses.slic:HINGE",
    "rrhf": "rayonale.losses.rrhf:LOSS",
    "orpo": "rayonale.losses.orpo:LOSS",
    "cpo": "rayonale.losses.cpo:LOSS",
    "simpo": "rayonale.losses.simpo:LOSS",
    "length_dpo": "rayonale.losses.length_dpo:LOSS",
    "rpo": "rayonale.losses.rpo:LOSS",
    "sppo": "rayonale.losses.sppo:LOSS",
    "nca_pair": "rayonale.losses.nca:PAIR",
    "nca": "rayonale.losses.nca:LOSS",
    "infonca": "rayonale.losses.nca:INFONCA",
    "e_dpo": "rayonale.losses.e_dpo:LOSS",
    "drdo": "rayonale.losses.drdo:LOSS",
    "bradley_terry": "rayonale.losses.bradley_terry:LOSS",
    "rdpo": "rayonale.losses.rdpo:LOSS",
    "rorpo": "rayonale.losses.rdpo:RORPO",
    "rsimpo": "rayonale.losses.rdpo:RSIMPO",
    "rationale_only": "rayonale.losses.rationale:LOSS",
}

# Names that mean different things in the literature, and what each is called here.
_AMBIGUOUS = {
    "r-dpo": "rdpo (DPO with rationales) or length_dpo (length-regularised R-DPO)",
    "r_dpo": "rdpo (DPO with rationales) or length_dpo (length-regularised R-DPO)",
}
_WITH_RATIONALE = "+rationale"


def get(name: str) -> Loss:
    """The loss of a name.

    Raises:
        ValueError: unknown name; the message lists the choices.
    """
    base, suffix, rest = name.partition(_WITH_RATIONALE)
    if base not in REGISTRY or rest:
        hint = f" ({_AMBIGUOUS[name]})" if name in _AMBIGUOUS else ""
        raise ValueError(
            f"unknown loss {name!r}{hint}; choices: {', '.join(sorted(REGISTRY))}, and "
            f"<loss of pairs>{_WITH_RATIONALE}"
        )
    module, _, attribute = REGISTRY[base].partition(":")
    loss: Loss = getattr(import_module(module), attribute)
    if suffix:
        from rayonale.losses.rationale import on_top_of

        return on_top_of(loss)
    return loss


def of(settings: LossSettings) -> Loss:
    """The loss that settings choose, with everything that it reads under its options."""
    return get(settings.name).with_options(settings)


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


def modules(name: str) -> list[str]:
    """Modules that define a loss: a run's code version includes them."""
    get(name)
    base, suffix, _ = name.partition(_WITH_RATIONALE)
    found = [REGISTRY[base].partition(":")[0]]
    return [*found, "rayonale.losses.rationale"] if suffix else found
