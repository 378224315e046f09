"""Rows with responses in, the same rows with rewards out."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("score")
