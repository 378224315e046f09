"""Rows of one type in, rows of another out: pairs, labelled rows, lists with scores."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("reshape")
