"""Finished stages in, one self-contained HTML page out."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("report")
