"""Judgements in; accuracy, agreement and bias of the judges out."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("judge_accuracy")
