"""Tells the wanted score in every row's prompt."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("goals")
