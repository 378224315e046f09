"""Pairs with rewards in; accuracy, calibration and accuracy by category out."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("reward_accuracy")
