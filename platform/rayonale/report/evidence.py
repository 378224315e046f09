"""What a report rests on: the manifests and rows of the stages read, and of their ancestors."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rayonale import storage
from rayonale.stages import StageOutput

log = logging.getLogger("rayonale")

# Colours of the palette in style.css; policies beyond them share the last one.
SLOTS = 8


@dataclass(frozen=True)
class Limits:
    """How much of the data is put on the page; what is left out is said there."""

    pairs: int = 60
    answers: int = 60
    rejects_per_reason: int = 3
    text: int = 3_000  # characters of one text


@dataclass(frozen=True)
class Evidence:
    """Everything sections draw from.

    Attributes:
        title: the report's title.
        outputs: stages in the order in which they ran (ancestors first).
        limits: how much is shown.
        colours: policy → CSS class of its colour, the same in every plot.
        cells: policy → method, size and seed, of the policies of a sweep.
        hidden: stages that others stand for: of a sweep the cells of the largest size and the
            first seed are shown one by one, of comparisons at several temperatures the first;
            all others only together.
    """

    title: str
    outputs: Sequence[StageOutput]
    limits: Limits = field(default_factory=Limits)
    colours: Mapping[str, str] = field(default_factory=dict)
    cells: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()

    def of_kind(self, *kinds: str) -> list[StageOutput]:
        """Stages of some kinds that are shown one by one, in order."""
        return [o for o in self.outputs if o.kind in kinds and o.name not in self.hidden]

    def reads(self, output: StageOutput) -> dict[str, list[str]]:
        """Role → names of what a stage read in it."""
        names = {other.uri: other.name for other in self.outputs}
        found = {}
        for role, read in (output.manifest.get("inputs") or {}).items():
            several = read if isinstance(read, list) else [read]
            told = [one for one in several if isinstance(one, dict)]
            found[role] = [names.get(one.get("uri", ""), str(one.get("name"))) for one in told]
        return found

    def table(self, kind: str, name: str) -> list[dict[str, Any]]:
        """A table out of the `details` of every stage of a kind, put together.

        Rows of hidden policies are left out.
        """
        return [
            {**row, "stage": output.name}
            for output in self.of_kind(kind)
            for row in output.manifest.get("details", {}).get(name) or []
            if self.hidden.isdisjoint(str(row.get(who)) for who in ("policy", "a", "b"))
        ]

    def colour(self, policy: str) -> str:
        """CSS class of a policy's colour."""
        return self.colours.get(policy, "s0")

    def policies(self, names: Iterable[str]) -> list[str]:
        """Names in the order of the colours; unknown ones follow."""
        known = list(self.colours)
        return sorted(
            dict.fromkeys(names), key=lambda n: known.index(n) if n in known else len(known)
        )


def gather(read: Sequence[StageOutput], title: str, limits: Limits | None = None) -> Evidence:
    """Evidence from the stages read, with the stages that they were made from."""
    found: dict[str, StageOutput] = {}
    for output in read:
        _follow(output, found)
    outputs = _named_apart(list(found.values()))
    cells = _cells(outputs)
    return Evidence(
        title, outputs, limits or Limits(), _colours(outputs, cells), cells, _hidden(outputs, cells)
    )


def _follow(output: StageOutput, found: dict[str, StageOutput]) -> None:
    """Add a stage after its ancestors; each once."""
    if output.uri in found:
        return
    for uri in _input_uris(output.manifest):
        if uri not in found and (ancestor := _open(uri)) is not None:
            _follow(ancestor, found)
    found[output.uri] = output


def _named_apart(outputs: Sequence[StageOutput]) -> list[StageOutput]:
    """Stages of one name (of several runs, say) are numbered: `sft`, `sft (2)` …"""
    seen: dict[str, int] = {}
    found = []
    for output in outputs:
        number = seen[output.name] = seen.get(output.name, 0) + 1
        name = output.name if number == 1 else f"{output.name} ({number})"
        found.append(replace(output, name=name))
    return found


def _input_uris(manifest: Mapping[str, Any]) -> Iterator[str]:
    for read in (manifest.get("inputs") or {}).values():
        for one in read if isinstance(read, list) else [read]:
            if isinstance(one, dict) and one.get("uri"):
                yield str(one["uri"])


def _open(uri: str) -> StageOutput | None:
    """A finished stage; None for a plain folder, or one that has been removed since."""
    where = storage.join(uri, storage.MANIFEST)
    if not storage.exists(where):
        return None
    manifest = storage.read_json(where)
    return StageOutput(manifest["name"], uri, manifest["fingerprint"], manifest["kind"], manifest)


def _colours(
    outputs: Sequence[StageOutput], cells: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """Policies in training order, then any other that was compared (the base model, say).

    Cells of a sweep have the colour of their method, which is a name of its own.
    """
    names = [output.name for output in outputs if output.kind == "train"]
    for output in outputs:
        names += [str(name) for name in output.manifest.get("details", {}).get("policies", [])]
    owners = {name: str(cells[name]["method"]) if name in cells else name for name in names}
    slots = {owner: at for at, owner in enumerate(dict.fromkeys(owners.values()), start=1)}
    owners |= {owner: owner for owner in slots}
    return {name: f"s{min(slots[owner], SLOTS)}" for name, owner in owners.items()}


def _cells(outputs: Sequence[StageOutput]) -> dict[str, Mapping[str, Any]]:
    """Policies of the sweeps that study stages are about."""
    return {
        str(cell["policy"]): cell
        for output in outputs
        if output.kind == "study"
        for cell in output.manifest.get("details", {}).get("cells") or []
    }


def _hidden(
    outputs: Sequence[StageOutput], cells: Mapping[str, Mapping[str, Any]]
) -> frozenset[str]:
    """Cells that others of their method stand for, and the stages that sample them."""
    shown: dict[str, tuple[Any, str]] = {}
    for policy, cell in cells.items():
        rank = (-cell["size"], cell["seed"])
        shown[cell["method"]] = min(shown.get(cell["method"], (rank, policy)), (rank, policy))
    hidden = set(cells) - {policy for _, policy in shown.values()}
    for output in outputs:
        model = (output.manifest.get("inputs") or {}).get("model")
        if output.kind == "samples" and isinstance(model, dict) and model.get("name") in hidden:
            hidden.add(output.name)
    return frozenset(hidden | _repeated(outputs))


def _repeated(outputs: Sequence[StageOutput]) -> set[str]:
    """Comparisons that an earlier stage made at another temperature, and the samples of them."""
    names = {output.uri: output.name for output in outputs}
    made: dict[tuple[str, str], float] = {}
    hidden, kept, sampled = set[str](), set[str](), set[str]()
    for output in outputs:
        if output.kind != "win_rates":
            continue
        told = output.manifest.get("details", {}).get("win_rates") or []
        pairs = {(str(row.get("a")), str(row.get("b"))) for row in told}
        warmth = temperature(output, outputs)
        read = {names.get(uri, "") for uri in _input_uris(output.manifest)}
        others = {made.get(pair, warmth) for pair in pairs}
        if warmth is not None and pairs and pairs <= made.keys() and warmth not in others:
            hidden.add(output.name)
            sampled |= read
            continue
        kept |= read
        if warmth is not None:
            made |= {pair: warmth for pair in pairs if pair not in made}
    samples = {output.name for output in outputs if output.kind == "samples"}
    return hidden | ((sampled - kept) & samples)


def temperature(output: StageOutput, outputs: Sequence[StageOutput]) -> float | None:
    """At which all answers that a stage compares were drawn; None where there are several."""
    by_uri = {other.uri: other for other in outputs}
    read = [by_uri[uri] for uri in _input_uris(output.manifest) if uri in by_uri]
    found = {
        (other.manifest.get("settings", {}).get("sampling") or {}).get("temperature")
        for other in read
        if other.kind == "samples"
    }
    known = [float(warmth) for warmth in found if warmth is not None]
    return known[0] if len(known) == 1 else None


def has_rows(output: StageOutput) -> bool:
    """Whether a stage left rows that are still there."""
    return bool(storage.parquet_files(output.rows))


def columns(output: StageOutput) -> list[str]:
    """Columns of a stage's rows; none when it has no rows."""
    return storage.schema(output.rows).names if has_rows(output) else []


def sample(
    output: StageOutput, size: int, wanted: Sequence[str], prefer: str | None = None
) -> list[dict[str, Any]]:
    """The same `size` rows every time: ids are hashes, so the smallest are a fair sample.

    Args:
        wanted: columns to read; those that are not there are left out.
        prefer: a column; rows in which it is empty are taken only when there are too few others.
    """
    present = columns(output)
    read = [name for name in wanted if name in present]
    rows = storage.read_rows(output.rows, read) if present else iter(())
    return heapq.nsmallest(size, rows, key=lambda r: (bool(prefer and not r.get(prefer)), r["id"]))


def rejects(output: StageOutput) -> Iterator[dict[str, Any]]:
    """A stage's rejects."""
    if storage.parquet_files(output.rejects):
        yield from storage.read_rows(output.rejects)
