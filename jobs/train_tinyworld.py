"""Trains the base model of tinyworld from scratch (about 25 minutes on 2 cores).

    python jobs/train_tinyworld.py --work runs/tinyworld --out platform/rayonale/tinyworld/base
    python jobs/train_tinyworld.py --measure --out platform/rayonale/tinyworld/base

The same command goes on after a kill. `--measure` measures a finished model instead and
writes its model card.
"""

import argparse
import logging
from pathlib import Path

from rayonale.tinyworld import base_model_path
from rayonale.tinyworld.base_model import BaseModelSettings, train
from rayonale.tinyworld.measures import measure
from rayonale.tinyworld.model_card import write_card


def main() -> None:
    defaults = BaseModelSettings()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--work", type=Path, default=Path("runs/tinyworld"))
    parser.add_argument("--out", type=Path, default=base_model_path())
    parser.add_argument("--measure", action="store_true", help="measure --out, write its card")
    parser.add_argument("--prompts", type=int, default=300, help="prompts per measured task")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.measure:
        write_card(options.out, measure(options.out, options.prompts))
        return
    train(BaseModelSettings(steps=options.steps, seed=options.seed), options.work, options.out)


if __name__ == "__main__":
    main()
