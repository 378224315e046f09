"""MT-Bench answers graded one by one or compared in pairs."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("mt_bench")
