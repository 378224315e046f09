"""Rows in, a trained policy out: SFT, DPO, RDPO … on Ray Train with DeepSpeed."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("train")
