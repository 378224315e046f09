"""Measure how far policies have moved towards the chosen responses."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("margins")
