"""Run a recipe: python jobs/run_recipe.py RECIPE [--stage NAME] [--dry-run] [a.b.c=value …]."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import yaml

from rayonale import command, execution, recipe


def main() -> None:
    """Parse the command line, check the recipe, run it."""
    parser = argparse.ArgumentParser(description="Run a recipe, reusing what is unchanged.")
    parser.add_argument("recipe", help="YAML file (path or URI)")
    parser.add_argument("overrides", nargs="*", help="a.b.c=value: settings to change")
    parser.add_argument("--stage", help="run only this stage and what it needs")
    parser.add_argument(
        "--force",
        action="append",
        default=[],
        metavar="NAME",
        help="run this stage again although it is unchanged",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check and print the plan; nothing is run or downloaded",
    )
    parser.add_argument("--cpus", type=int, help="cores of a local Ray session (default: all)")
    arguments = parser.parse_intermixed_args()
    command.set_up_logging()
    try:
        loaded = recipe.load(arguments.recipe, arguments.overrides)
        if arguments.dry_run:
            print(plan(loaded))
            return
        outputs = execution.run(
            loaded, only=arguments.stage, force=arguments.force, num_cpus=arguments.cpus
        )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    for name, output in outputs.items():
        print(f"{name}: {output.uri}")
        if report := output.manifest.get("details", {}).get("report"):
            print(f"report: {report}")


def plan(loaded: recipe.Recipe) -> str:
    """What would be run, fully resolved, as YAML."""
    stages = {
        name: {
            "kind": planned.stage.kind,
            "reads": dict(planned.reads),
            "settings": planned.settings.model_dump(mode="json"),
        }
        for name, planned in loaded.stages.items()
    }
    document: dict[str, Any] = {"name": loaded.name, "runs": loaded.runs}
    document["parallel"] = loaded.parallel
    document["stages"] = stages
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


if __name__ == "__main__":
    main()
