"""Pairs with scores of two attributes in, the response that is better by told weights out (DPA)."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("directions")
