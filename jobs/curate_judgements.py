"""Judgements in, preference pairs of judgements out, by a named rule."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("curate")
