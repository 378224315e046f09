"""Two judges' rationales in, blind side-by-side tasks for Label Studio out."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("rationale_tasks")
