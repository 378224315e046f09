"""Estimate a recipe before launching it: python jobs/estimate_recipe.py RECIPE [a.b.c=value …].

What is not known of this kind of machine is measured in short runs (once), unless --no-probe.
With --actual: what the stages took, beside what they were expected to take.
"""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console

from rayonale import cluster, command, recipe, storage
from rayonale.planning import given, ledger, machine, walk
from rayonale.planning.outlook import Session
from rayonale.planning.probes import Probes
from rayonale.planning.rates import RateBook
from rayonale.planning.table import actual_table, plan_table


def main() -> None:
    """Parse the command line, check the recipe, estimate it, print and keep the estimate."""
    parser = argparse.ArgumentParser(
        description="Estimate tokens, time, GPU-hours, disk and cost of a recipe."
    )
    parser.add_argument("recipe", help="YAML file (path or URI)")
    parser.add_argument("overrides", nargs="*", help="a.b.c=value: settings to change")
    parser.add_argument("--price-per-gpu-hour", type=float, help="to tell the cost")
    parser.add_argument(
        "--devices", type=float, help="GPUs that are held all the time (default: those in use)"
    )
    parser.add_argument("--assume", action="append", default=[], nargs="+", metavar="KEY=VALUE",
                        help="a number that cannot be known here, such as pairs.rows=61135, "
                        "peak_tflops=989, mfu=0.4")  # fmt: skip
    parser.add_argument("--machine", help="kind of machine whose rates are used (default: this)")
    parser.add_argument("--no-probe", action="store_true", help="measure nothing")
    parser.add_argument("--cpus", type=int, help="cores of a local Ray session (default: all)")
    parser.add_argument("--actual", action="store_true",
                        help="print what was estimated before beside what it took")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_intermixed_args()
    command.set_up_logging()
    try:
        loaded = recipe.load(arguments.recipe, arguments.overrides)
        if arguments.actual:
            shown = actual_table(loaded)
            print(json.dumps(shown.data, indent=2)) if arguments.json else show(shown.table)
            return
        plan = estimate(loaded, arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    folder = storage.join(cluster.lasting(loaded.runs), loaded.name)
    kept = ledger.keep(folder, plan)
    if arguments.json:
        print(json.dumps(plan.as_json(), indent=2))
        return
    show(plan_table(plan, arguments.price_per_gpu_hour, arguments.devices))
    print(f"kept in {kept}")


def estimate(loaded: recipe.Recipe, arguments: argparse.Namespace) -> walk.Plan:
    """The plan, with probes where they may be made."""
    here, devices = machine.kind(), arguments.devices
    have = sum(machine.gpus().values())
    elsewhere = devices is not None and devices > have
    wanted = arguments.machine or (f"{devices:g} GPUs elsewhere" if elsewhere else here)
    runs = cluster.lasting(loaded.runs)
    book = RateBook(runs, wanted, may_probe=wanted == here)
    if arguments.machine and wanted != here and wanted not in book.machines():
        raise ValueError(
            f"--machine {wanted!r}: nothing is known of it under {runs}; known: "
            f"{', '.join(book.machines()) or 'none'}; this one is {here!r}"
        )
    numbers = given.parse([one for each in arguments.assume for one in each], loaded.stages)
    session = Session(
        book,
        numbers,
        gpus=have if devices is None else devices,
        cores=arguments.cpus or walk.cores(),
    )
    with Probes(arguments.cpus) as probes:
        if not arguments.no_probe and wanted == here:
            session.probes = probes
        return walk.plan(
            loaded, session, price=arguments.price_per_gpu_hour, devices=arguments.devices
        )


def show(table: object) -> None:
    """Print; into a file or pipe, whole lines: what is folded cannot be searched."""
    width = None if sys.stdout.isatty() else 200
    Console(width=width).print(table)


if __name__ == "__main__":
    main()
