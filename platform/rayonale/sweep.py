"""Sweeps: one stage of a recipe written once, for every combination of named axes.

    axes:
      size: [250, 500]
      method:                                   # values with settings of their own
        dpo:  {loss: {name: dpo, beta: 0.1}}
        rdpo: {loss: {name: rdpo, beta: 0.1, gamma: 2.0, form: paper, reduction: mean}}
    stages:
      <method>_<size>:                          # dpo_250, dpo_500, rdpo_250, rdpo_500
        {kind: train, reads: {rows: pairs, model: sft}, limit: <size>, loss: <method.loss>, …}
      samples_<method>_<size>:
        {kind: samples, reads: {rows: pairs, model: <method>_<size>}}
      win_rates:
        kind: win_rates
        reads: {samples: [samples_sft, samples_<method>_<size>]}          # all of them
        comparisons: [[<method>_<size>, sft], [rdpo_<size>, dpo_<size>]]

`<axis>` in a stage's name makes it a template, one stage for each value. In its settings `<axis>`
is the value, typed when it stands alone, and `<axis.field>` a setting of the value. An item of a
list that has axes which the stage's name has not stands for one item for each of their values
(the outermost list counts). In names `1.5` becomes `1_5`. `<<word>>` is the text `<word>`.

What comes out are ordinary named stages: everything that a recipe is checked for holds for each.
"""

from __future__ import annotations

import copy
import difflib
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

AXES = "axes"
_PLACE = re.compile(r"<<([A-Za-z_][\w.-]*)>>|<([A-Za-z_]\w*(?:\.\w+)*)>")
_AXIS = re.compile(r"[A-Za-z_]\w*")

# axis → the value that it has in a cell
Cell = Mapping[str, "Value"]


@dataclass(frozen=True)
class Value:
    """One value of an axis: what it is called, what it stands for, settings of its own."""

    text: str
    value: Any
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Sweep:
    """A recipe's document with its templates expanded.

    Attributes:
        stages: name → stage as it would have been written out.
        templates: name of a stage → the template that it comes from.
        broken: stages whose template has a problem: they are not worth checking further.
        problems: what is wrong with axes and templates, with its path.
    """

    stages: dict[str, Any]
    templates: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def told_once(self, problems: list[str]) -> list[str]:
        """Problems that all cells of a template share, told of the template."""
        found: dict[str, list[str]] = {}
        for problem in problems:
            name = problem.removeprefix("stages.").split(".", 1)[0].split(":", 1)[0]
            template = self.templates.get(name)
            told = problem.replace(f"stages.{name}", f"stages.{template}", 1)
            cells = found.setdefault(problem if template is None else told, [])
            if template is not None:
                cells.append(name)
        return [
            problem + (f" (in {', '.join(names[:3])}{_more(len(names) - 3)})" if names else "")
            for problem, names in found.items()
        ]


def _more(number: int) -> str:
    return f" and {number} more" if number > 0 else ""


def expand(document: Mapping[str, Any]) -> Sweep:
    """Write out the stages of a recipe; one without axes stays as it is."""
    raw = document.get("stages")
    assert isinstance(raw, dict)
    if AXES not in document:
        return Sweep(dict(raw))
    axes, problems = _parse_axes(document[AXES])
    sweep = Sweep({}, problems=problems)
    if problems:  # what cannot be expanded would only be told again, stage by stage
        sweep.stages = {str(n): stage for n, stage in raw.items() if not _places(str(n))}
        sweep.broken = {name for name, stage in sweep.stages.items() if any(_places_in(stage))}
        return sweep
    writer = _Writer(axes)
    for name, stage in raw.items():
        _expand_stage(str(name), stage, writer, sweep)
    sweep.problems += writer.told()
    return sweep


def _expand_stage(name: str, stage: Any, writer: _Writer, sweep: Sweep) -> None:
    writer.at, before = f"stages.{name}", writer.faults
    fields = [f"<{part}>" for part in _places(name) if "." in part]
    if fields:
        writer.tell(f"a name is made of axes alone; found {', '.join(fields)}")
        return
    axes = [part for part in _places(name) if writer.knows(part)]
    if writer.faults > before:
        return
    for cell in writer.cells(axes):
        cell_name = writer.text(name, cell)
        if cell_name in sweep.stages:
            other = sweep.templates.get(cell_name, cell_name)
            writer.tell(f"gives the stage {cell_name!r}, which {other!r} gives too")
            continue
        so_far = writer.faults
        sweep.stages[cell_name] = writer.write(stage, cell, f"stages.{name}")
        if axes:
            sweep.templates[cell_name] = name
        if writer.faults > so_far:
            sweep.broken.add(cell_name)


class _Writer:
    """Puts values in the places of axes; gathers what is wrong and which axes were used."""

    def __init__(self, axes: Mapping[str, Mapping[str, Value]]) -> None:
        self.axes = axes
        self.at = ""
        self.problems: list[str] = []
        self.faults = 0  # as often as something was wrong
        self._used: set[str] = set()

    def tell(self, message: str, at: str | None = None) -> None:
        """Note a problem once, however many cells have it."""
        self.faults += 1
        told = f"{at or self.at}: {message}"
        if told not in self.problems:
            self.problems.append(told)

    def told(self) -> list[str]:
        """All problems, what is never used among them."""
        unused = [
            f"{AXES}.{axis}: no stage uses it (<{axis}>)"
            for axis in self.axes
            if axis not in self._used
        ]
        for axis, values in self.axes.items():
            names = dict.fromkeys(name for value in values.values() for name in value.fields)
            unused += [
                f"{AXES}.{axis}: no stage uses its {name!r} (<{axis}.{name}>)"
                for name in names
                if axis in self._used and f"{axis}.{name}" not in self._used
            ]
        return self.problems + (unused if not self.problems else [])

    def knows(self, place: str, at: str | None = None) -> bool:
        """Whether a place is of an axis; told when not."""
        axis = place.split(".", maxsplit=1)[0]
        if axis in self.axes:
            self._used.add(axis)
            self._used.add(".".join(place.split(".")[:2]))
            return True
        choices = list(self.axes)
        self.tell(
            f"no axis {axis!r}{_near(axis, choices)}; axes: {', '.join(choices)}. The text "
            f"<{place}> itself is written <<{place}>>",
            at,
        )
        return False

    def cells(self, axes: list[str], given: Cell | None = None) -> Iterator[Cell]:
        """All combinations of the values of some axes, the last axis fastest."""
        for values in itertools.product(*(self.axes[axis].values() for axis in axes)):
            yield {**(given or {}), **dict(zip(axes, values, strict=True))}

    def write(self, value: Any, cell: Cell, at: str) -> Any:
        """A copy of a setting with the cell's values in it."""
        if isinstance(value, str):
            return self._write_text(value, cell, at)
        if isinstance(value, Mapping):
            return {key: self.write(item, cell, f"{at}.{key}") for key, item in value.items()}
        if not isinstance(value, list):
            return value
        found = []
        for number, item in enumerate(value):
            here = f"{at}.{number}"
            places = [place for place in _places_in(item) if self.knows(place, here)]
            free = dict.fromkeys(place.split(".")[0] for place in places)
            more = [axis for axis in free if axis not in cell]
            found += [self.write(item, one, here) for one in self.cells(more, cell)]
        return found

    def _write_text(self, text: str, cell: Cell, at: str) -> Any:
        whole = _PLACE.fullmatch(text)
        if whole and whole[2]:
            return copy.deepcopy(self.value(whole[2], cell, at))
        return self.text(text, cell, at)

    def text(self, text: str, cell: Cell, at: str | None = None) -> str:
        """A text with the cell's values in it, as names have them."""

        def put(match: re.Match[str]) -> str:
            if match[1]:
                return f"<{match[1]}>"
            value = self.value(match[2], cell, at)
            if isinstance(value, Mapping | list):
                self.tell(f"<{match[2]}> is no single value and must stand alone", at)
            return name_of(value)

        return _PLACE.sub(put, text)

    def value(self, place: str, cell: Cell, at: str | None) -> Any:
        """What stands in a place; None (and told) where nothing does."""
        axis, *path = place.split(".")
        if not self.knows(place, at):
            return None
        if axis not in cell:
            self.tell(
                f"<{place}>: {axis!r} is not in the stage's name; only items of lists take all "
                "values of an axis",
                at,
            )
            return None
        found: Any = cell[axis].fields if path else cell[axis].value
        for depth, key in enumerate(path):
            if not isinstance(found, Mapping) or key not in found:
                choices = list(found) if isinstance(found, Mapping) else []
                where = ".".join([axis, cell[axis].text, *path[:depth]])
                self.tell(f"<{place}>: {AXES}.{where} has no {key!r}{_near(key, choices)}", at)
                return None
            found = found[key]
        return found


def name_of(value: Any) -> str:
    """A value as it stands in names: 1.5 is `1_5`."""
    return str(value).replace(".", "_")


def _parse_axes(raw: Any) -> tuple[dict[str, dict[str, Value]], list[str]]:
    """axis → name of a value → value."""
    if not isinstance(raw, Mapping) or not raw:
        return {}, [f"{AXES}: found {raw!r:.60}, expected a mapping axis: [values]"]
    found: dict[str, dict[str, Value]] = {}
    problems = []
    for axis, values in raw.items():
        at = f"{AXES}.{axis}"
        if not isinstance(axis, str) or not _AXIS.fullmatch(axis):
            problems.append(f"{at}: an axis's name is letters, digits and '_', a letter first")
        elif not isinstance(values, list | Mapping) or not values:
            problems.append(
                f"{at}: found {values!r:.60}, expected a list of values, or a mapping from each "
                "value's name to its settings"
            )
        else:
            found[axis], told = _parse_values(at, values)
            problems += told
    return found, problems


def _parse_values(
    at: str, values: list[Any] | Mapping[Any, Any]
) -> tuple[dict[str, Value], list[str]]:
    found: dict[str, Value] = {}
    problems = []
    for number, value in enumerate(values):
        own = values[value] if isinstance(values, Mapping) else {}
        here = f"{at}.{value if isinstance(values, Mapping) else number}"
        if not isinstance(value, str | int | float):
            problems.append(f"{here}: found {value!r:.60}, expected a number or a word")
        elif not re.fullmatch(r"[\w-]+", name_of(value)):
            problems.append(
                f"{here}: found {value!r}, expected letters, digits, '-', '_' (it is part of names)"
            )
        elif name_of(value) in found:
            problems.append(f"{here}: the value {name_of(value)!r} comes twice")
        elif not isinstance(own, Mapping):
            problems.append(f"{here}: found {own!r:.60}, expected a mapping of settings")
        elif any(_places_in(own)):
            problems.append(f"{here}: settings of a value cannot have axes of their own")
        else:
            found[name_of(value)] = Value(name_of(value), value, own)
    return found, problems


def _places(text: str) -> list[str]:
    """Axes (with fields) of a text, in order, each once."""
    return list(dict.fromkeys(match[2] for match in _PLACE.finditer(text) if match[2]))


def _places_in(value: Any) -> Iterator[str]:
    """Axes (with fields) anywhere in a setting."""
    if isinstance(value, str):
        yield from _places(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _places_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _places_in(item)


def _near(word: str, choices: list[str]) -> str:
    close = difflib.get_close_matches(word, choices, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
