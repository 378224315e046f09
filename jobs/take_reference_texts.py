"""Rows in, their own texts as answers out, to compare policies with."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("reference_texts")
