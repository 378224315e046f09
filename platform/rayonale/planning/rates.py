"""How fast this kind of machine does what stages do: where each number comes from, best first.

    given       by the user, for a stage or for all         "given"
    finished    a finished run of the same kind of stage,   "as …/rationales/0918d963 was"
                model and settings on the same kind of machine
    probed      a short measured run, stored and reused     "probe of 2026-11-26"
    assumed     FLOPs at a given utilisation of a given peak "assumed: 6·N·tokens …"

Probes are kept in `<runs>/rates/<hash>/`, by what they depend on: the kind of machine, the model's
architecture, the settings that count, and the code that was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rayonale import storage
from rayonale.lineage import fingerprints
from rayonale.lineage.ancestry import stage_folders
from rayonale.planning.flow import Row

FOLDER = "rates"
_FILE = "measured.json"

Values = Mapping[str, float]


@dataclass(frozen=True)
class Rates:
    """Measured (or assumed) numbers and where they come from.

    Attributes:
        values: name → number; names say the unit (`tokens_per_second`, `start_seconds` …).
        source: for people.
        rows: the sample as a probe left it, with what it added.
        given: whether the user gave them, which goes before all that is measured.
        per_device: whether the rate is of one device; measured ones are of all together.
        with_prompts: whether a generation rate counts prompt tokens, too.
    """

    values: Values
    source: str
    rows: list[Row] = field(default_factory=list)
    given: bool = False
    per_device: bool = False
    with_prompts: bool = False

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def get(self, name: str, otherwise: float) -> float:
        """A number, or another where it was not measured."""
        return self.values.get(name, otherwise)


Probe = Callable[[], tuple[Values, list[Row]]]
# (a finished stage's manifest) → its numbers, or None where it is not like the one in question
Reading = Callable[[Mapping[str, Any]], Values | None]


class RateBook:
    """Rates of one kind of machine under a runs folder.

    Args:
        runs: the runs folder.
        machine: kind of machine; see `rayonale.planning.machine`.
        may_probe: whether missing rates may be measured (this is such a machine).
    """

    def __init__(self, runs: str, machine: str, may_probe: bool = True) -> None:
        self.runs, self.machine, self.may_probe = runs, machine, may_probe
        self._manifests: dict[str, list[tuple[str, Mapping[str, Any]]]] | None = None
        self._told: dict[str, Rates] = {}

    def finished(self, kind: str, read: Reading, name: str = "") -> Rates | None:
        """Of the latest finished stage of a kind on this kind of machine that `read` accepts.

        Args:
            name: stages of this name go first: they are most alike in length.
        """
        found = self._of_kind(kind)
        for folder, manifest in sorted(found, key=lambda one: one[1].get("name") != name):
            if (values := read(manifest)) is not None:
                return Rates(values, f"as {'/'.join(folder.split('/')[-2:])[:60]} was")
        return None

    def probed(self, key: Mapping[str, Any], measure: Probe | None) -> Rates | None:
        """A stored probe, or a new one where `measure` can make it.

        Args:
            key: what the numbers depend on, beside the machine; JSON-able.
        """
        key = {"machine": self.machine, **key}
        name = fingerprints.of(key)[:16]
        if name in self._told:
            return self._told[name]
        folder = storage.join(self.runs, FOLDER, name)
        file = storage.join(folder, _FILE)
        if not storage.exists(file):
            if measure is None or not self.may_probe:
                return None
            values, rows = measure()
            if rows:
                storage.write_json(storage.join(folder, "rows.json"), rows)
            storage.write_json(
                file,
                {"key": key, "values": dict(values), "rows": len(rows),
                 "measured": datetime.now(UTC).strftime("%Y-%m-%d")},
            )  # fmt: skip
        found = storage.read_json(file)
        rows = storage.read_json(storage.join(folder, "rows.json")) if found["rows"] else []
        self._told[name] = Rates(found["values"], f"probe of {found['measured']}", rows)
        return self._told[name]

    def _of_kind(self, kind: str) -> list[tuple[str, Mapping[str, Any]]]:
        """(folder, manifest) of finished stages on this kind of machine, the latest first."""
        if self._manifests is None:
            self._manifests = {}
            found = []
            for folder in stage_folders(self.runs) if storage.exists(self.runs) else ():
                uri = storage.join(folder, storage.MANIFEST)
                manifest = storage.read_json(uri)
                if manifest.get("machine") == self.machine:
                    found.append((_written(uri), folder, manifest))
            for _, folder, manifest in sorted(found, key=lambda one: one[0], reverse=True):
                self._manifests.setdefault(manifest["kind"], []).append((folder, manifest))
        return self._manifests.get(kind, [])

    def machines(self) -> list[str]:
        """Kinds of machines that anything is known of."""
        fs, path = storage.filesystem(storage.join(self.runs, FOLDER))
        files = fs.glob(f"{path}/*/{_FILE}") if fs.exists(path) else []
        probed = {storage.read_json(fs.unstrip_protocol(file))["key"]["machine"] for file in files}
        folders = stage_folders(self.runs) if storage.exists(self.runs) else ()
        ran = {
            storage.read_json(storage.join(folder, storage.MANIFEST)).get("machine")
            for folder in folders
        }
        return sorted(probed | {machine for machine in ran if machine})


def _written(uri: str) -> float:
    """When a file was written, in seconds."""
    fs, path = storage.filesystem(uri)
    return float(fs.modified(path).timestamp())
