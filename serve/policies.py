"""Policies behind OpenAI's endpoints: `import_path: serve.policies:app` in a deployment file."""

from __future__ import annotations

from typing import Any

from ray.serve import Application

from rayonale.serve import deployments


def app(args: dict[str, Any]) -> Application:
    """The application of a deployment file's `args` (see `rayonale/serve/settings.py`).

    Raises:
        ValueError: an argument is wrong, or no policies are named.
    """
    if not args.get("policies"):
        raise ValueError("args.policies: expected at least one policy")
    return deployments.application(args)
