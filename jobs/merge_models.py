"""Models of one architecture in, their weighted sum out."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("merge")
