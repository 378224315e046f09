"""Pairs in, log-probs of both responses under a reference model out."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("reference_logprobs")
