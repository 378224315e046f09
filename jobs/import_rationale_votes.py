"""Label Studio's export in; win rate with ties, agreement of the annotators, reasons out."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("rationale_votes")
