"""Arena-Hard answers against a baseline's: ratings with intervals."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("arena_hard")
