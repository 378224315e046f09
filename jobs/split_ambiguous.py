"""Pairs with confidences in, the same with how ambiguous each is out."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("ambiguity")
