"""Pairs with scores in, pairs conditioned on the score as a goal out (reward-augmented data)."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("relabel")
