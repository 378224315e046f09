"""Rationales in, graded rationales out; the poor ones become rejects."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("grade_rationales")
