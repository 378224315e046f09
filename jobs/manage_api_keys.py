"""API keys: python jobs/manage_api_keys.py add|revoke|list NAME --file keys.txt."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rayonale.serve import keys


def main() -> None:
    """Parse the command line and do it."""
    parser = argparse.ArgumentParser(description="API keys of served models.")
    parser.add_argument("action", choices=("add", "revoke", "list"))
    parser.add_argument("name", nargs="?", help="whose key it is")
    parser.add_argument("--file", required=True, type=Path, help="file of hashed keys")
    arguments = parser.parse_args()
    try:
        if (arguments.action == "list") != (arguments.name is None):
            raise ValueError(
                f"{arguments.action}: expected {'a' if arguments.name is None else 'no'} name"
            )
        if arguments.action == "add":
            print(keys.add(arguments.file, arguments.name))
            print("shown once: only its hash is kept", file=sys.stderr)
        elif arguments.action == "revoke":
            keys.revoke(arguments.file, arguments.name)
        else:
            text = arguments.file.read_text(encoding="utf-8")
            print("\n".join(keys.parse(text, str(arguments.file))))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
