"""Print what a model or a run was made from: python jobs/show_lineage.py MODEL_OR_RUN [--json]."""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console

from rayonale.lineage.ancestry import trace
from rayonale.lineage.ancestry_tree import tree_of


def main() -> None:
    """Parse the command line, trace, print."""
    parser = argparse.ArgumentParser(
        description="Print the ancestry of a model or a run, down to raw files and prompts."
    )
    parser.add_argument(
        "target",
        help="a stage's folder or its model folder, a registered model (name, name/version, "
        "name@alias, models:/...), or an MLflow run id",
    )
    parser.add_argument("--json", action="store_true", help="print JSON (with prompts' texts)")
    parser.add_argument("--brief", action="store_true", help="leave the settings out")
    parser.add_argument("--runs", default="runs", help="the runs folder (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        found = trace(arguments.target, arguments.runs)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if arguments.json:
        print(json.dumps(found.as_json(), indent=2, sort_keys=True))
    else:
        # Into a file or pipe, whole lines: what is folded cannot be searched.
        width = None if sys.stdout.isatty() else 100_000
        Console(width=width).print(tree_of(found, settings=not arguments.brief))


if __name__ == "__main__":
    main()
