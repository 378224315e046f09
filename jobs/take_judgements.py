"""Judgements in, examples for SFT of a judge out."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("judgement_examples")
