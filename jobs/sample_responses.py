"""Prompts in, responses of a policy out, through vLLM actors on Ray Data."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("samples")
