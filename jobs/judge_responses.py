"""Responses in, judgements out: scores by a rubric, or comparisons, by a model or an endpoint."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("judge")
