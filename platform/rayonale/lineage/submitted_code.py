"""Tells when the code that a job was submitted with is not the code that its processes import.

`ray job submit --working-dir .` copies the working directory to the nodes, but Python imports the
package that is installed there, unless the job asks for the copy. A result made by other code
than the one on the user's screen is worse than no result: such a job is refused, with the two
ways out. Workers that start later (autoscaled nodes) compare themselves with the driver.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import rayonale

log = logging.getLogger("rayonale")

EXPECTED = "RAYONALE_CODE"  # environment variable: hash of the driver's package

USE_SUBMITTED = """--runtime-env-json '{"env_vars": {"PYTHONPATH": "platform"}}'"""


@lru_cache(maxsize=8)
def hash_of(package: Path) -> str:
    """Hash of a package folder's sources: Python files and prompt templates (16 hex digits)."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*")):
        if file.suffix in (".py", ".jinja") and file.is_file():
            digest.update(file.relative_to(package).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def imported() -> Path:
    """Folder of the package that this process imports."""
    return Path(rayonale.__file__).resolve().parent


def check_driver(working_dir: Path | None = None) -> None:
    """Refuse to run when the working directory holds other code than what is imported.

    Raises:
        ValueError: they differ; names both, their hashes and the remedies.
    """
    submitted = (working_dir or Path.cwd()).resolve() / "platform" / "rayonale"
    if not (submitted / "__init__.py").is_file() or submitted == imported():
        return
    found, expected = hash_of(imported()), hash_of(submitted)
    if found != expected:
        raise ValueError(
            f"the submitted code differs from the package installed on the node: submitted "
            f"{submitted} ({expected}), imported {imported()} ({found}). Either update the nodes "
            "(ray up ray_cluster.yaml), or run the submitted code everywhere: ray job submit "
            f"{USE_SUBMITTED} ..."
        )


def worker_environment() -> dict[str, str]:
    """Environment variables that let every worker compare itself with this driver."""
    return {EXPECTED: hash_of(imported())}


def warn_if_different() -> None:
    """In a worker: log an error when it imports other code than the driver does."""
    expected = os.environ.get(EXPECTED)
    if expected and (found := hash_of(imported())) != expected:
        log.error("%s", _told({_here(): found}, expected))


def check_nodes() -> None:
    """Compare the package on every node that is there now with the driver's.

    Raises:
        ValueError: a node imports other code; names the nodes.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    expected = hash_of(imported())
    remote = ray.remote(num_cpus=0)(_hash_here)
    tasks = [
        remote.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
        ).remote()
        for node in ray.nodes()
        if node["Alive"]
    ]
    different = {where: found for where, found in ray.get(tasks) if found != expected}
    if different:
        raise ValueError(_told(different, expected))


def _hash_here() -> tuple[str, str]:
    return _here(), hash_of(imported())


def _here() -> str:
    return f"{os.uname().nodename}:{imported()}"


def _told(different: Mapping[str, str], expected: str) -> str:
    nodes = ", ".join(f"{where} ({found})" for where, found in sorted(different.items()))
    return (
        f"code differs between nodes: the driver imports {expected}, other code on {nodes}. Either "
        "update the nodes (ray up ray_cluster.yaml), or run the submitted code everywhere: "
        f"ray job submit {USE_SUBMITTED} ..."
    )
