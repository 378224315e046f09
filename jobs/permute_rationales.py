"""Rationales given to other rows of their split: the control for irrelevant ones."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("permute_rationales")
