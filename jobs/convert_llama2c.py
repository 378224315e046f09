"""A llama2.c checkpoint as a Hugging Face folder: `convert_llama2c.py CHECKPOINT PIECES FOLDER`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rayonale.llama2c import convert


def main() -> None:
    """Convert what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="the .bin file")
    parser.add_argument("pieces", type=Path, help="JSON list of the vocabulary's pieces")
    parser.add_argument("folder", type=Path, help="written; made where it is not there")
    given = parser.parse_args()
    convert(given.checkpoint, given.pieces, given.folder)
    print(f"written: {given.folder}")


if __name__ == "__main__":
    main()
