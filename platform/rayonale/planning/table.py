"""Estimates as tables for the terminal."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from rayonale import cluster, storage
from rayonale.planning import ledger, walk
from rayonale.planning.flow import Estimate
from rayonale.planning.outlook import Session
from rayonale.planning.rates import RateBook
from rayonale.recipe import Recipe
from rayonale.report.text import duration

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def amount(value: float | None) -> str:
    """`12.3M`; a dash for what is not known."""
    if value is None:
        return "–"
    for size, unit in _UNITS:
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


def plan_table(plan: walk.Plan, price: float | None, devices: float | None) -> Group:
    """A plan's stages, its sums, and on what they rest."""
    table = Table(title=f"{plan.recipe} on {plan.machine}", title_justify="left")
    table.add_column("stage")
    for name in ("rows", "generated", "trained", "scored", "time", "GPU-hours", "disk"):
        table.add_column(name, justify="right")
    for line in plan.lines:
        table.add_row(line.name, *_cells(line.done, line.estimate))
    total = plan.total
    table.add_section()
    table.add_row(
        "together", "", *(amount(total.tokens.get(n, 0.0)) for n in _TOKENS),
        at_least(total), f"{total.gpu_hours:.2f}", amount(total.bytes),
    )  # fmt: skip
    return Group(table, *(Text(told) for told in sums(plan, price, devices)), _basis(plan))


_TOKENS = ("generated", "trained", "scored")


def _cells(done: bool, estimate: Estimate) -> list[str]:
    if done:
        return [amount(estimate.rows_out), "", "", "", "done", "", ""]
    seconds = estimate.seconds
    return [
        "?" if estimate.missing else amount(estimate.rows_out),
        *(amount(n) if (n := estimate.tokens.get(name)) else "" for name in _TOKENS),
        "not estimated" if seconds is None else duration(seconds),
        "" if seconds is None else f"{seconds * estimate.gpus / 3600:.2f}",
        amount(estimate.bytes),
    ]


def at_least(total: walk.Total) -> str:
    """The time, and that it is more where stages have none."""
    if not total.unknown:
        return duration(total.seconds)
    return f"over {duration(total.seconds)}" if total.seconds else "not estimated"


def sums(plan: walk.Plan, price: float | None, devices: float | None) -> list[str]:
    """The plan's sums in words."""
    total = plan.total
    told = [f"{at_least(total)}, of which {duration(total.around)} around the stages"]
    told[0] += f"; {amount(total.bytes)}B on disk, at most {amount(total.peak_bytes)}B meanwhile"
    held = "in use by each stage" if devices is None else f"of {devices:g} GPUs held all the time"
    if total.gpu_hours or devices is not None:
        told.append(f"{total.gpu_hours:.2f} GPU-hours {held}")
    elif price is not None:
        told.append("no stage uses a GPU on this machine: no GPU-hours to pay")
    if total.cost is not None:
        at = f" at {price:g} a GPU-hour" if price is not None else ""
        told.append(f"cost {total.cost:,.2f}{at}")
    if total.unknown:
        told.append(f"without {', '.join(total.unknown)}: not estimated")
    return told


def _basis(plan: walk.Plan) -> Group:
    """On what each stage's numbers rest; equal ones of neighbours are told once."""
    told: list[str] = [*plan.basis]
    groups: list[tuple[list[str], str]] = []
    for line in plan.lines:
        text = line.estimate.missing or "; ".join(line.estimate.basis)
        if groups and groups[-1][1] == text:
            groups[-1][0].append(line.name)
        else:
            groups.append(([line.name], text))
    told += [f"{', '.join(names)}: {text}" for names, text in groups]
    return Group(Text("\nrests on", style="bold"), *(Text(f"  {line}") for line in told))


@dataclass(frozen=True)
class Actual:
    """A table and the same as data."""

    table: Group
    data: dict[str, Any]


def actual_table(recipe: Recipe) -> Actual:
    """What was estimated before, beside what it took.

    Raises:
        ValueError: there is no estimate of this recipe, or none of its stages has been run.
    """
    runs = cluster.lasting(recipe.runs)
    folder = storage.join(storage.absolute(runs), recipe.name)
    if not storage.exists(storage.join(folder, ledger.FILE)):
        raise ValueError(f"{folder}: no estimate was kept; run this command without --actual first")
    plan = walk.plan(recipe, Session(RateBook(runs, "none", may_probe=False)))
    compared = ledger.compare(
        folder, [(one.name, one.kind, one.fingerprint, _manifest(one)) for one in plan.lines]
    )
    if all(one.actual is None for one in compared):
        raise ValueError(f"{folder}: no stage of this recipe, as it is now, has been run")
    together = ledger.together(compared)
    table = Table(title=f"{recipe.name}: estimate and actual", title_justify="left")
    table.add_column("stage")
    for name in ("estimate", "actual", "estimate / actual"):
        table.add_column(name, justify="right")
    for one in compared:
        table.add_row(*_compared(one))
    table.add_section()
    table.add_row(*_compared(together))
    data = {"stages": [asdict(one) | {"ratio": one.ratio} for one in compared],
            "together": asdict(together) | {"ratio": together.ratio}}  # fmt: skip
    return Actual(Group(table), data)


def _manifest(line: walk.Line) -> dict[str, Any]:
    if not line.done:
        return {}
    found: dict[str, Any] = storage.read_json(storage.join(line.out, storage.MANIFEST))
    return found


def _compared(one: ledger.Compared) -> list[str]:
    return [
        one.name,
        "not estimated" if one.expected is None else duration(one.expected),
        "not run" if one.actual is None else duration(one.actual),
        "" if one.ratio is None else f"{one.ratio:.2f}",
    ]
