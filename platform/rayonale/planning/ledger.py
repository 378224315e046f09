"""Estimates kept beside the runs, and what stages took beside what they were expected to take.

    runs/<recipe>/estimates.json   fingerprint of a stage → its latest estimate before it was run

A stage that is done keeps the estimate that was made before. `run_stage` puts it into the
manifest (`expected`) and MLflow, the report shows it, and `jobs/estimate_recipe.py --actual` too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rayonale import storage

if TYPE_CHECKING:
    from rayonale.planning.walk import Plan

log = logging.getLogger("rayonale")

FILE = "estimates.json"


def keep(folder: str, plan: Plan) -> str:
    """Write a plan into `<runs>/<recipe>/estimates.json`; returns where."""
    uri = storage.join(folder, FILE)
    known = storage.read_json(uri)["stages"] if storage.exists(uri) else {}
    for line in plan.lines:
        if not line.done:
            known[line.fingerprint] = line.as_json()
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    storage.write_json(uri, {"made": made, "stages": known, "latest": plan.as_json()})
    return uri


def expected(folder: str, fingerprint: str) -> dict[str, Any] | None:
    """A stage's estimate out of `<runs>/<recipe>/estimates.json`; None where there is none.

    A file that cannot be read is told and passed over: a stage that has done its work must not
    fail for it.
    """
    uri = storage.join(folder, FILE)
    try:
        found = storage.read_json(uri)["stages"].get(fingerprint) if storage.exists(uri) else None
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        log.warning("%s: no estimates in it (%s)", uri, error)
        return None
    return found if isinstance(found, dict) else None


@dataclass(frozen=True)
class Compared:
    """A stage's estimate beside what it took.

    Attributes:
        expected, actual: seconds; None where there is no estimate, or it has not been run.
    """

    name: str
    kind: str
    expected: float | None
    actual: float | None

    @property
    def ratio(self) -> float | None:
        """Estimate over actual; 1 is right."""
        if self.expected is None or not self.actual:
            return None
        return self.expected / self.actual


def compare(
    folder: str, stages: Iterable[tuple[str, str, str, Mapping[str, Any]]]
) -> list[Compared]:
    """Estimates beside manifests.

    Args:
        folder: `<runs>/<recipe>`.
        stages: (name, kind, fingerprint, manifest; empty where it has not been run).
    """
    found = []
    for name, kind, fingerprint, manifest in stages:
        before = manifest.get("expected") or expected(folder, fingerprint) or {}
        found.append(Compared(name, kind, before.get("seconds"), manifest.get("seconds")))
    return found


def together(compared: Iterable[Compared]) -> Compared:
    """The sum over stages that have both."""
    both = [(one.expected, one.actual) for one in compared]
    known = [(e, a) for e, a in both if e is not None and a is not None]
    return Compared("together", "", sum(e for e, _ in known), sum(a for _, a in known))
