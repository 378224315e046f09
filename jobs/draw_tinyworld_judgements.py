"""Training data for judges of the small world, with exact labels."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("tinyworld_judgements")
