"""Win rates of a sweep's cells in; curves, paired tests and the paper's claims out."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("study")
