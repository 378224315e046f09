"""Serve what a deployment file names: python jobs/serve_models.py configs/serve/tinyworld.yaml."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from typing import Any

from rayonale.command import set_up_logging
from rayonale.serve import running

_ENDING = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    """Parse the command line, start the applications, stay until told to stop."""
    parser = argparse.ArgumentParser(
        description="Serve models. On a cluster (ray job submit, RAY_ADDRESS) the applications "
        "stay when this command has ended; elsewhere they end with it."
    )
    parser.add_argument("file", help="deployment file (the format of `serve deploy`)")
    parser.add_argument("--port", type=int, help="in the place of the file's")
    parser.add_argument("--cpus", type=int, help="cores of a local Ray session (default: all)")
    arguments = parser.parse_args()
    set_up_logging()
    ended = threading.Event()
    _listen(ended)
    try:
        service: Any = running.start(arguments.file, arguments.port, arguments.cpus)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    _listen(ended)  # again: Ray has put a handler of its own there, which ends at once
    for url in service.urls:
        print(f"serving at {url}", flush=True)
    if service.local:
        ended.wait()
        for number in _ENDING:
            signal.signal(number, signal.SIG_DFL)
        print("stopping; what is under way is finished (again: at once)", flush=True)
        service.stop()


def _listen(ended: threading.Event) -> None:
    """Set an event when this process is told to stop."""
    for number in _ENDING:
        signal.signal(number, lambda *_: ended.set())


if __name__ == "__main__":
    main()
