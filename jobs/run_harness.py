"""lm-evaluation-harness over local or its own tasks, through vLLM."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("harness")
