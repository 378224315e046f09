"""What Ray starts as HAProxy: changes the configuration that Ray wrote, then becomes HAProxy.

Ray runs it anew at every change of the endpoints, so it imports nothing but the standard library
(`haproxy.py` says how it is run).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_OPEN_TO_REQUESTS = frozenset({"frontend http_frontend", "frontend grpc_frontend"})


def changed(text: str, refusal: str) -> str:
    """A configuration of Ray's without what must not be there.

    - Frontends other than the service's own are left out: HAProxy's pages of statistics and metrics
      have no keys and listen on all addresses.
    - Only this user can command HAProxy through its socket.
    - Where no application is known yet, as after HAProxy was killed, it answers 503 and not 404: a
      client asks again after the one and gives up after the other.
    - An endpoint that cannot be reached is told by 503, too, and not by 500.
    - Bodies of requests are not spliced: HAProxy 2.8 then does not look any more whether the client
      goes, and the endpoint never hears that it has gone.

    Args:
        refusal: file of a whole answer of status 503.
    """
    lines = text.splitlines()
    knows_applications = any(line.split()[:1] == ["use_backend"] for line in lines)
    kept, section = [], ""
    for line in lines:
        if line and not line[0].isspace():
            section = line.strip()
        words = line.split()
        if not _is_kept(section) or words == ["option", "splice-request"]:
            continue
        if words[:2] == ["stats", "socket"]:
            changed_line = line.replace(" mode 666 ", " mode 600 ")
        elif words[:1] == ["errorfile"]:
            changed_line = f"    errorfile {words[1]} {refusal}"
        elif words[:4] == ["http-request", "return", "status", "404"] and not knows_applications:
            changed_line = f"    http-request return status 503 errorfile {refusal}"
        else:
            changed_line = line
        kept.append(changed_line)
    return "\n".join(kept) + "\n"


def _is_kept(section: str) -> bool:
    kind = section.split(" ", maxsplit=1)[0]
    return kind in ("global", "defaults", "backend") or section in _OPEN_TO_REQUESTS


def main() -> None:
    """Arguments: file of the refusal, HAProxy's program, and what Ray gives it."""
    refusal, program, *arguments = sys.argv[1:]
    if "-f" in arguments:  # else it is only asked for its version
        file = Path(arguments[arguments.index("-f") + 1])
        new = file.with_name(f"{file.name}.{os.getpid()}")
        new.write_text(changed(file.read_text(encoding="utf-8"), refusal), encoding="utf-8")
        new.replace(file)
    os.execv(program, [program, *arguments])


if __name__ == "__main__":
    main()
