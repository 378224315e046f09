"""Let a registered model's alias name a version: jobs/promote_model.py models:/NAME/3."""

from __future__ import annotations

import argparse
import sys

from rayonale.command import set_up_logging
from rayonale.lineage import registered_models


def main() -> None:
    """Move an alias; with another version this is also how one rolls back."""
    parser = argparse.ArgumentParser(description="Promote a registered model, or roll back.")
    parser.add_argument("model", help="models:/NAME/VERSION, or models:/NAME for its newest")
    parser.add_argument("--alias", default="champion")
    parser.add_argument("--runs", default="runs", help="folder of the runs (for their registry)")
    arguments = parser.parse_args()
    set_up_logging()
    try:
        before, now = registered_models.promote(arguments.model, arguments.alias, arguments.runs)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"{arguments.alias}: version {now} (before: {before or 'none'})")


if __name__ == "__main__":
    main()
