"""AlpacaEval 2's columns from annotations, or from win rates judged here."""

from rayonale.command import stage_main

if __name__ == "__main__":
    stage_main("alpaca_eval")
