"""Draw scored lists of the small world, as raw JSON lines."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("tinyworld_lists")
