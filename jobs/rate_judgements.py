"""Judgements in, ratings of them (or the best and worst rationale) out."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("judge_judgements")
