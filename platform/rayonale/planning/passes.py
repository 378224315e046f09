"""The estimate that all stages with engines share: a pass of completions over rows.

seconds = engines' start (where none of the kind runs) + what a pass takes by itself
        + generated tokens / (tokens/s) + rows · what writing one takes
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rayonale.generate.endpoint import EndpointOptions
from rayonale.generate.settings import EngineOptions
from rayonale.generate.stream import Task
from rayonale.planning.arithmetic import FORWARD_FLOPS
from rayonale.planning.flow import Row
from rayonale.planning.outlook import ENGINE_START_SECONDS, Outlook, is_here, model_key
from rayonale.planning.probes import Change
from rayonale.planning.rates import Rates, Values
from rayonale.planning.sizes import Unknown

ENDPOINT_SECONDS = 5.0  # of one answer; assumed
HALF = 0.5  # of max_tokens: a completion's length where nobody knows; assumed
PROBE_BATCHES = 2  # full batches of sequences that a probe draws, so that most of it runs full


@dataclass(frozen=True)
class Pass:
    """What is drawn.

    Attributes:
        model: folder or name of the model (of its base where it is still to be trained).
        rows: that pass through; asked: those of them with completions.
        per_row: completions of an asked row.
        prompt_tokens: of one completion's prompt.
        max_tokens: of a completion.
        expected: tokens of a completion where neither the user nor a measurement tells, and why.
        measured_length: whether a probe's lengths count (its model is the stage's own).
        task, sample: what a probe runs, over which rows; None where it cannot be made.
        change, without: what the stage does at the pass's end.
        settings: all that the numbers depend on beside model and engine; JSON-able.
        read: numbers out of a finished stage's manifest.
    """

    model: str
    engine: EngineOptions
    rows: float
    asked: float
    per_row: float
    prompt_tokens: float
    max_tokens: int
    expected: tuple[float, str] | None = None
    measured_length: bool = True
    task: Task | None = None
    sample: list[Row] = field(default_factory=list)
    change: Change | None = None
    without: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    read: Callable[[Mapping[str, Any]], Values | None] | None = None

    @property
    def completions(self) -> float:
        """To be drawn."""
        return self.asked * self.per_row


@dataclass(frozen=True)
class PassEstimate:
    """What a pass takes: `rates` has what was measured beside speed (`keep`, rows).

    `money` is what an endpoint charges.
    """

    parts: dict[str, float]
    tokens: dict[str, float]
    gpus: float
    completion_tokens: float
    rates: Rates
    basis: tuple[str, ...]
    money: float = 0.0


def estimate_pass(outlook: Outlook, drawn: Pass) -> PassEstimate:
    """Seconds and tokens of a pass.

    Raises:
        Unknown: there is no rate; the message says what to give.
    """
    if not drawn.completions:
        raise Unknown("no rows of its splits are expected, so it would stop")
    options = drawn.engine
    rates = outlook.rates(
        {"component": "pass", "model": model_key(drawn.model),
         "engine": options.model_dump(mode="json"), "sample": _ids(drawn.sample),
         "settings": dict(drawn.settings)},
        given=outlook.compute("generate", drawn.model, FORWARD_FLOPS, ENGINE_START_SECONDS),
        read=drawn.read,
        measure=_measure(drawn) if drawn.task is not None and is_here(drawn.model) else None,
    )  # fmt: skip
    if rates is None:
        raise Unknown(outlook.no_rates(drawn.model))
    length, why = _length(outlook, drawn, rates)
    asked = rates.get("asked_share", 1.0)
    completions = drawn.completions * asked
    tokens = {"generated": completions * length, "prompt": completions * drawn.prompt_tokens}
    devices = options.replicas * options.tensor_parallel_size
    timed = tokens["generated"] + (tokens["prompt"] if rates.with_prompts else 0.0)
    parts = {
        "pass": rates.get("pass_seconds", 0.0),
        "generation": timed / rates["tokens_per_second"] / (devices if rates.per_device else 1),
        "rows": drawn.rows * rates.get("row_seconds", 0.0),
    }
    basis = [f"speed {rates.source}", why]
    if asked < 1:
        basis.append(f"{asked:.0%} of them asked, measured: the others are equal answers")
    start, told = engine_start(outlook, drawn.model, options, rates)
    if start:
        parts = {"engine start": start, **parts}
    if told:
        basis.append(told)
    gpus = float(devices) if outlook.session.gpus else 0.0
    return PassEstimate(parts, tokens, gpus, length, rates, tuple(basis))


def endpoint_pass(
    outlook: Outlook,
    options: EndpointOptions,
    completions: float,
    *,
    prompt_tokens: float,
    max_tokens: int,
    expected: tuple[float, str] | None = None,
) -> PassEstimate:
    """An endpoint: its limits and prices are settings, an answer's time is assumed.

    Args:
        expected: tokens of a completion where the user does not tell, and why.

    Raises:
        Unknown: nothing is asked.
    """
    if not completions:
        raise Unknown("no rows of its splits are expected, so it would stop")
    told = outlook.given("tokens")
    length, why = expected or (HALF * max_tokens, f"completions of {HALF * max_tokens:g} tokens "
                               "assumed, half of max_tokens")  # fmt: skip
    if told is not None:
        length, why = told, f"completions of {told:g} tokens given"
    length = min(length, max_tokens)
    wait = completions * ENDPOINT_SECONDS / options.concurrency
    if options.requests_per_minute:
        wait = max(wait, 60 * completions / options.requests_per_minute)
    tokens = {"generated": completions * length, "prompt": completions * prompt_tokens}
    money = (tokens["prompt"] * options.input_price
             + tokens["generated"] * options.output_price) / 1e6  # fmt: skip
    slow = f"{ENDPOINT_SECONDS:g} s an answer assumed, {options.concurrency} at a time"
    return PassEstimate(
        {"answers": wait}, tokens, 0.0, length, Rates({}, "assumed"), (slow, why), money
    )


def _measure(drawn: Pass) -> Callable[..., tuple[Values, list[Row]]]:
    assert drawn.task is not None
    wanted = PROBE_BATCHES * drawn.engine.max_num_seqs / max(drawn.per_row, 1.0)
    rows = drawn.sample[: max(1, round(wanted))]
    return lambda probes: probes.generation(
        drawn.model, drawn.engine, drawn.task, rows, change=drawn.change, without=drawn.without
    )


def _ids(rows: list[Row]) -> list[str]:
    """What tells samples apart: the first and last ids, and their number."""
    return [str(len(rows)), *(str(row.get("id")) for row in (rows[:1] + rows[-1:]))]


def _length(outlook: Outlook, drawn: Pass, rates: Rates) -> tuple[float, str]:
    """Tokens of a completion, and who says so."""
    told = outlook.given("tokens")
    if told is not None:
        return min(told, drawn.max_tokens), f"completions of {told:g} tokens given"
    seen = rates.values.get("completion_tokens")
    if seen is not None and (drawn.measured_length or not rates.source.startswith("probe")):
        return seen, f"completions of {seen:.0f} tokens measured"
    if drawn.expected is not None:
        length, why = drawn.expected
        return min(length, drawn.max_tokens), why
    length = HALF * drawn.max_tokens
    return length, f"completions of {length:g} tokens assumed, half of max_tokens"


def engine_start(
    outlook: Outlook, model: str, options: EngineOptions, rates: Rates
) -> tuple[float, str]:
    """Seconds until engines of a kind are ready, and who says so; nothing where they run already.

    On GPUs engines stop where another model needs the devices, or training does (`run_stage`).
    """
    session = outlook.session
    key = (model_key(model), options)
    if key in session.engines:
        return 0.0, ""
    if session.gpus:
        session.engines.clear()
    session.engines.add(key)
    if rates.get("start_seconds", 0.0) and not rates.source.startswith("probe"):
        return rates["start_seconds"], ""
    found = session.book.probed(
        {"component": "engine", "model": key[0], "engine": options.model_dump(mode="json")},
        (lambda: session.probes.engine(model, options))  # type: ignore[union-attr]
        if session.probes is not None and is_here(model)
        else None,
    )
    if found is not None:
        return found["start_seconds"], f"engine start {found.source}"
    told = session.given.get("engine_start_seconds")
    seconds = ENGINE_START_SECONDS if told is None else told
    return seconds, f"engine start of {seconds:g} s {'assumed' if told is None else 'given'}"


def reading(
    kind_settings: Mapping[str, Any],
    key: str,
    named: Callable[[Mapping[str, Any]], str],
    completions: Callable[[Mapping[str, Any]], float],
    per_row: float,
) -> Callable[[Mapping[str, Any]], Values | None]:
    """Reads rates out of manifests of generation stages.

    Args:
        kind_settings: settings that must be equal.
        key: of the model; `named` gives a manifest's.
        completions: drawn by a finished stage, from its metrics; `per_row` of an asked row.
    """

    def read(manifest: Mapping[str, Any]) -> Values | None:
        settings, metrics = manifest["settings"], manifest["metrics"]
        if any(settings.get(name) != value for name, value in kind_settings.items()):
            return None
        if metrics.get("rows_resumed") or not metrics.get("tokens_per_second"):
            return None
        if named(manifest) != key:
            return None
        return values_of(metrics, manifest, completions(metrics), per_row)

    return read


def values_of(
    metrics: Mapping[str, float],
    manifest: Mapping[str, Any],
    completions: float,
    per_row: float,
) -> Values:
    """Numbers of a finished pass; `keep` is of the rows that had completions."""
    rate, generated = metrics["tokens_per_second"], metrics["generated_tokens"]
    start = metrics.get("engine_start_seconds", 0.0)
    rows = max(1, manifest["rows_in"])
    rest = manifest["seconds"] - metrics["generation_seconds"] - start
    found = {
        "tokens_per_second": rate,
        "pass_seconds": max(0.0, metrics["generation_seconds"] - generated / rate),
        "row_seconds": max(0.0, rest) / rows,
    }
    if completions:
        dropped = manifest["rows_in"] - manifest["rows_out"]
        found["keep"] = max(0.0, 1 - dropped / max(1.0, completions / max(per_row, 1.0)))
        found["completion_tokens"] = generated / completions
    if start > 1:  # an engine that ran already is there at once
        found["start_seconds"] = start
    return found
