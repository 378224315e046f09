"""Compare runs on one page: python jobs/compare_runs.py FOLDER FOLDER … --out page.html."""

from __future__ import annotations

import argparse
import sys

from rayonale import command, storage
from rayonale.report.compare import compare, sections
from rayonale.report.compare.runs import open_runs
from rayonale.report.evidence import Limits


def main() -> None:
    """Parse the command line, open the runs, write the page."""
    parser = argparse.ArgumentParser(
        description="Set runs side by side: settings that differ, results with paired "
        "differences, curves, answers, fingerprints, time and cost."
    )
    parser.add_argument("runs", nargs="+", metavar="FOLDER",
                        help="a recipe's folder (runs/<recipe>: its latest report) or a stage's "
                        "(with what it was made from)")  # fmt: skip
    parser.add_argument("--out", default="comparison.html", help="page to write (%(default)s)")
    parser.add_argument("--json", help="file for the page's numbers")
    parser.add_argument("--label", action="append", default=[], help="of each run, in order")
    parser.add_argument("--title", help="heading of the page")
    parser.add_argument("--price-per-gpu-hour", type=float, help="to tell the cost")
    parser.add_argument("--answers", type=int, default=60, help="prompts to page through")
    arguments = parser.parse_args()
    command.set_up_logging()
    try:
        comparison = open_runs(
            arguments.runs, arguments.label, limits=Limits(answers=arguments.answers),
            price=arguments.price_per_gpu_hour,
        )  # fmt: skip
        page = compare(comparison, arguments.title)
        storage.write_bytes(storage.absolute(arguments.out), page.encode("utf-8", "replace"))
        if arguments.json:
            numbers = {s.id: s.numbers for s in sections(comparison)}
            storage.write_json(storage.absolute(arguments.json), numbers)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(arguments.out)


if __name__ == "__main__":
    main()
