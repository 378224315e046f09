"""Measures how far a policy gives the score that it is asked for."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("goal_control")
