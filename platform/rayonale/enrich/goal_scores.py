"""From a pair's scores to goals on a scale.

    map: none     9.0 → 9.0        on the scale already
         linear   0.31 → 7.4       [least, greatest] (found, or `from_scale`) → the scale
         rank     0.31 → 6.5       its place among all scores → the scale, ties in the middle
         raw      0.31 → 0.3       the scale is what was found

Bounds are those of all rows, or of a prompt's own (its pairs' scores, and those of the list that
they were picked from). Scores that are missing or off the scale are never guessed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from rayonale.data.left_out import LeftOut
from rayonale.records import RejectKind

Row = dict[str, Any]
Map = Literal["none", "linear", "rank", "raw"]
OVERALL = "overall"


@dataclass(frozen=True)
class Scale:
    """From the worst score to the best."""

    low: float
    high: float

    def __contains__(self, score: float) -> bool:
        return self.low <= score <= self.high

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


def linear(score: float, found: Scale, wanted: Scale) -> float:
    """wanted.low + (score − found.low)/(found.high − found.low) · (wanted.high − wanted.low).

    Raises:
        ValueError: all scores are one, so there is no line.
    """
    if found.low == found.high:
        raise ValueError(f"all scores are {found.low:g}: no line through one point")
    share = (score - found.low) / (found.high - found.low)
    return wanted.low + share * (wanted.high - wanted.low)


def rank(score: float, ordered: NDArray[np.float64], wanted: Scale) -> float:
    """Mean place of a score among all of them (0 … n − 1), put on the scale.

    Args:
        ordered: [n] all scores, sorted; n ≥ 2.
    """
    left = int(np.searchsorted(ordered, score, "left"))
    right = int(np.searchsorted(ordered, score, "right"))
    place = (left + right - 1) / 2
    return linear(place, Scale(0, len(ordered) - 1), wanted)


@dataclass(frozen=True)
class Source:
    """Where a row's scores are.

    Attributes:
        prefix: of the columns `<prefix>_chosen` and `<prefix>_rejected` of an overall score.
        attributes: names, when there is a score of each: in the metadata's `attributes_chosen`
            and `attributes_rejected`, or in columns `<name>_chosen` and `<name>_rejected`.
        in_metadata: which of these two.
    """

    prefix: str
    attributes: tuple[str, ...] = ()
    in_metadata: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """What is scored."""
        return self.attributes or (OVERALL,)

    def columns(self) -> list[str]:
        """Columns that are read."""
        if self.attributes and self.in_metadata:
            return ["metadata"]
        prefixes = self.attributes or (self.prefix,)
        return [f"{prefix}_{side}" for prefix in prefixes for side in ("chosen", "rejected")]

    def scores(self, row: Mapping[str, Any], side: str) -> dict[str, float]:
        """Scores of one side's response.

        Raises:
            LeftOut: one is missing, or no finite number.
        """
        given: Mapping[str, Any] = row
        if self.attributes and self.in_metadata:
            told = json.loads(row["metadata"] or "{}").get(f"attributes_{side}")
            given = {f"{name}_{side}": score for name, score in dict(told or {}).items()}
        found: dict[str, float] = {}
        for name in self.names:
            score = given.get(f"{name if self.attributes else self.prefix}_{side}")
            number = isinstance(score, int | float) and not isinstance(score, bool)
            if score is None or not number or not math.isfinite(score):
                why = f"{name} of the {side} response: found {score!r}, expected a number"
                raise LeftOut(RejectKind.INVALID, "no_score", why)
            found[name] = float(score)
        return found


@dataclass
class Seen:
    """All scores of the rows, or of one prompt, by name."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, score: float) -> None:
        """Count a score."""
        self.values.setdefault(name, []).append(score)

    def scale(self, name: str) -> Scale:
        """Least and greatest."""
        return Scale(min(self.values[name]), max(self.values[name]))

    def ordered(self, name: str) -> NDArray[np.float64]:
        """Sorted."""
        return np.sort(np.asarray(self.values[name], np.float64))


def prompt_key(row: Mapping[str, Any]) -> int:
    """Names a prompt."""
    return xxhash.xxh3_64_intdigest(json.dumps(row["prompt"], sort_keys=True).encode())


def look(rows: Iterable[Row], source: Source, per_prompt: bool) -> dict[int | None, Seen]:
    """The pass over all scores before they are mapped: prompt (None: all rows) → scores.

    Rows whose scores are missing are passed over here; they become rejects when it is their turn.
    """
    found: dict[int | None, Seen] = {}
    for row in rows:
        try:
            sides = [source.scores(row, side) for side in ("chosen", "rejected")]
        except LeftOut:
            continue
        seen = found.setdefault(prompt_key(row) if per_prompt else None, Seen())
        for scores in sides:
            for name, score in scores.items():
                seen.add(name, score)
        if per_prompt and not source.attributes:
            for score in row.get("scores") or []:
                if score is not None and math.isfinite(score):
                    seen.add(OVERALL, score)
    return found


@dataclass(frozen=True)
class ScoreMap:
    """How scores become goals; `goals` does it.

    Attributes:
        wanted: the scale that goals are told on.
        given: the scale of the scores, where it is known.
        seen: all scores by prompt, for what has to be found.
    """

    kind: Map
    wanted: Scale
    given: Scale | None = None
    seen: Mapping[int | None, Seen] = field(default_factory=dict)
    ordered: dict[tuple[int | None, str], NDArray[np.float64]] = field(default_factory=dict)

    def goals(self, row: Row, scores: Mapping[str, float], per_prompt: bool) -> dict[str, float]:
        """Goals of one response, by name.

        Raises:
            LeftOut: a score off the scale, or a prompt whose scores are all equal.
        """
        scale = self.wanted if self.kind == "none" else self.given
        for name, score in scores.items():
            if scale is not None and score not in scale:
                why = f"{name}: found {score:g}, expected {scale}"
                raise LeftOut(RejectKind.INVALID, "off_scale", why)
        if self.kind in ("none", "raw"):
            return dict(scores)
        place = prompt_key(row) if per_prompt else None
        return {name: self._mapped(place, name, score) for name, score in scores.items()}

    def _mapped(self, place: int | None, name: str, score: float) -> float:
        if self.kind == "linear" and self.given is not None:
            return linear(score, self.given, self.wanted)
        seen = self.seen[place]
        try:
            if self.kind == "linear":
                return linear(score, seen.scale(name), self.wanted)
            if (place, name) not in self.ordered:
                self.ordered[place, name] = seen.ordered(name)
            return rank(score, self.ordered[place, name], self.wanted)
        except ValueError as error:
            raise LeftOut(RejectKind.FILTERED, "equal_scores", str(error)) from error


def told_scale(seen: Mapping[int | None, Seen], names: Sequence[str]) -> Scale:
    """Least and greatest of all scores.

    Raises:
        ValueError: no row has scores.
    """
    values = [v for one in seen.values() for name in names for v in one.values.get(name, [])]
    if not values:
        raise ValueError("no row has scores; expected some to find their scale")
    return Scale(min(values), max(values))
