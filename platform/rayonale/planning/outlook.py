"""What a stage's estimate is given: what it will read, what the user says, how fast things are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rayonale import storage
from rayonale.generate.engine_arguments import architecture
from rayonale.generate.settings import EngineOptions
from rayonale.models import resolve
from rayonale.planning import arithmetic
from rayonale.planning.flow import Flow, Row
from rayonale.planning.given import Given
from rayonale.planning.probes import Probes
from rayonale.planning.rates import RateBook, Rates, Reading, Values
from rayonale.planning.sizes import Sizes

ENGINE_START_SECONDS = 90.0  # assumed of models that are not here: loading and compiling
TRAIN_START_SECONDS = 90.0


@dataclass
class Session:
    """What all estimates of a recipe share.

    Attributes:
        gpus: that the machine (or the one planned for) has.
        cores: of the machine.
        engines: (architecture, options) of engines that run at this point of the recipe.
        probes: makes measured runs; None where none may be made.
    """

    book: RateBook
    given: Given = field(default_factory=Given)
    gpus: float = 0.0
    cores: int = 1
    sizes: Sizes = field(default_factory=Sizes)
    engines: set[tuple[str, EngineOptions]] = field(default_factory=set)
    probes: Probes | None = None


@dataclass(frozen=True)
class Outlook:
    """One stage's view.

    Attributes:
        name: of the stage in the recipe.
        kind: of the stage.
        reads: role → the flow read in it, or a list of them where the role takes many.
        code: version of the stage's code, for probes to depend on.
    """

    name: str
    kind: str
    session: Session
    reads: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""

    def flow(self, role: str = "rows") -> Flow:
        """What is read in a role."""
        found: Flow = self.reads[role]
        return found

    def given(self, name: str) -> float | None:
        """What the user says of this stage."""
        return self.session.given.of(self.name, name)

    def model(self, named: str, role: str = "model") -> str:
        """The base model behind a role, or the one that the settings name."""
        read = self.reads.get(role)
        return (read.model or named) if isinstance(read, Flow) else named

    def uses_gpu(self, asked: bool | None) -> bool:
        """Whether a stage computes on GPUs: as asked, else when there are any."""
        return self.session.gpus > 0 if asked is None else asked

    def rates(
        self,
        key: Mapping[str, Any],
        *,
        given: Rates | None = None,
        read: Reading | None = None,
        kind: str | None = None,
        measure: Callable[[Probes], tuple[Values, list[Row]]] | None = None,
    ) -> Rates | None:
        """The best numbers that there are: the user's, a finished run's, a probe's, assumed ones.

        Args:
            key: what a probe's numbers depend on.
            given: what `compute` makes of the user's numbers.
            read: numbers out of a finished stage's manifest.
            kind: of those stages, where it is not this one's.
            measure: makes the probe; None where it cannot be made.
        """
        session = self.session
        if given is not None and given.given:
            return given
        found = session.book.finished(kind or self.kind, read, self.name) if read else None
        if found is None:
            probes = session.probes
            probe = partial(measure, probes) if measure and probes else None
            found = session.book.probed({"code": self.code, **key}, probe)
        start = self.given("start_seconds")
        if found is not None and start is not None:
            found = replace(found, values={**found.values, "start_seconds": start})
        return found or given

    def compute(
        self, what: str, model: str, flops: float, start: float, *, engine: bool = False
    ) -> Rates | None:
        """Rates out of what the user gives: tokens/s of a device, or a peak and a utilisation.

        Args:
            what: `generate`, `train` or `forward`.
            flops: of a token and parameter (2 forward, 6 with backward).
            start: seconds until it is ready, where the user does not say.
            engine: whether engines do a `forward`, and not training workers.
        """
        given = self.session.given
        rate = self.given("tokens_per_second") or given.get(f"{what}_tokens_per_second")
        told = self.given("start_seconds")
        if told is None:
            kind = "engine" if engine or what == "generate" else "train"
            told = given.get(f"{kind}_start_seconds")
        values = {"start_seconds": start if told is None else told}
        ready = f"{values['start_seconds']:g} s to start {'assumed' if told is None else 'given'}"
        if rate:
            return Rates(
                {**values, "tokens_per_second": rate},
                f"given: {rate:,.0f} tokens/s a device, {ready}", given=True, per_device=True,
            )  # fmt: skip
        peak = given.get("peak_tflops")
        mfu = given.get("generation_mfu" if what == "generate" else "mfu")
        count = arithmetic.parameters(model)
        if peak is None or mfu is None or count is None:
            return None
        rate = arithmetic.tokens_per_second(flops * count, peak, mfu)
        return Rates(
            {**values, "tokens_per_second": rate},
            f"assumed: {flops:g}·N FLOPs a token, N = {count / 1e9:.3g}·10⁹, {mfu:.0%} of "
            f"{peak:g} TFLOP/s, {ready}", per_device=True, with_prompts=what == "generate",
        )  # fmt: skip

    def no_rates(self, model: str) -> str:
        """What to do where nothing is known of how fast a model is."""
        if self.session.probes is None:
            return (
                f"no rate of {model} is known on this kind of machine: run the probe there, or "
                "give --assume peak_tflops, mfu and generation_mfu, or tokens per second"
            )
        return (
            f"{model} is not on this machine, so it cannot be measured: give --assume "
            "peak_tflops, mfu and generation_mfu, or tokens per second"
        )


def is_here(model: str) -> bool:
    """Whether a model can be loaded without a download."""
    return Path(resolve(model)).is_dir()


def model_key(model: str) -> str:
    """What models of equal speed share: the architecture, or the name of one that is not here."""
    return architecture(resolve(model))


def key_of_read(manifest: Mapping[str, Any], named: str, role: str = "model") -> str:
    """`model_key` of the model that a finished stage used."""
    read = (manifest.get("inputs") or {}).get(role)
    if not isinstance(read, dict):
        return model_key(named)
    folder = read["uri"]
    if read.get("kind") != "external":
        folder = storage.join(folder, storage.MODEL)
    return architecture(folder)
