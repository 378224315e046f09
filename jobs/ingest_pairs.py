"""Raw preference data in, checked rows with stable ids and splits out."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("ingest")
