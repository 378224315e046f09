"""A set of instructions with a baseline's outputs, as rows to sample and to compare with."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("instructions")
