"""How an application is put together."""

from __future__ import annotations

import os
import subprocess
import sys

_SCRIPT = """
from ray.serve._private.handle_options import DynamicHandleOptions
from ray.serve.handle import DeploymentHandle
from rayonale.serve import deployments

given = DeploymentHandle("m", "a", handle_options=DynamicHandleOptions(_by_reference=True))
print(deployments._of_this_process(given).handle_options._by_reference)
"""


def test_the_endpoints_calls_go_by_grpc_whatever_the_driver_was_told() -> None:
    """A handle that is handed over has the driver's switch in it: its calls would be Ray tasks."""
    environment = os.environ | {"RAY_SERVE_USE_GRPC_BY_DEFAULT": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    found = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "False"
