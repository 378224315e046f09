"""A policy's answers to a benchmark's questions, turn by turn."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("answers")
