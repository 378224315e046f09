"""Samples of policies in, win rates with intervals out."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("win_rates")
