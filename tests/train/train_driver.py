"""What test_kills.py starts and kills: a driver that trains one stage in a Ray session of its own.

train_driver.py <rows> <out> <settings.json>
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace


def main() -> None:
    from rayonale import cluster
    from rayonale.stages import StageContext, StageOutput
    from rayonale.train import stage

    rows, out, settings = sys.argv[1:]
    cluster.connect(num_cpus=2)
    run = SimpleNamespace(log_metrics=lambda values, step=None: None)
    context = StageContext(
        "train", out, {"rows": StageOutput("rows", rows, "abc")}, None, "f" * 32, "c" * 32, run
    )
    stage.run(context, stage.TrainSettings(**json.loads(Path(settings).read_text())))


if __name__ == "__main__":
    main()
