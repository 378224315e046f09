"""A reward model behind `/v1/rewards`: `import_path: serve.oracle:app` in a deployment file."""

from __future__ import annotations

from typing import Any

from ray.serve import Application

from rayonale.serve import deployments


def app(args: dict[str, Any]) -> Application:
    """The application of a deployment file's `args` (see `rayonale/serve/settings.py`).

    Raises:
        ValueError: an argument is wrong, or no oracle is named.
    """
    if "model" not in args.get("oracle", {}):
        raise ValueError("args.oracle.model: expected a reward model")
    return deployments.application(args)
