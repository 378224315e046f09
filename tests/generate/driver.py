"""A driver to be killed: `python -m tests.generate.driver MODEL ROWS WORK`."""

from __future__ import annotations

import logging
import sys

from tests.generate.rows import Answer

from rayonale import cluster
from rayonale.generate import stream
from rayonale.generate.pool import Engines

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    model, rows, work = sys.argv[1:]
    cluster.connect(num_cpus=2)
    with Engines() as engines:
        pool = engines.get(model)
        print("pid", __import__("ray").get(pool.replicas[0].ready.remote()), flush=True)
        stream.generate(rows, work, Answer(), pool, identity="test", unit_rows=4)
