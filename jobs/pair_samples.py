"""Scored samples of a policy in, preference pairs out (best against worst, or random)."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("pair_samples")
