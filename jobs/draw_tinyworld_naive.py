"""Judged inputs in, naive judgements with the label's score out: for a control."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("tinyworld_naive")
