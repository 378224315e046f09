"""Stage `ambiguity`: which pairs are hard to tell apart, by confidence and by text.

    pair ─ annotator's confidence ─┐ cut at      hc_he  confident, and the texts differ much
         └ token edit distance ────┘ medians  ►  lc_le  unsure, and the texts are nearly the same
                                                 hc_le, lc_he, or null at a median (see `ties`)
    pairs labelled by several annotators ► how many, how far they agree, ambiguous or not

The splits of the DRDO paper (its section 5 and table 5); all rows go on with these columns, or one
split's alone.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import xxhash

from rayonale import storage
from rayonale.data import edit_distance, estimates, tokens
from rayonale.data.left_out import counts, reject
from rayonale.records import REJECT, RejectKind
from rayonale.stages import Reads, Settings, Stage, StageContext, StageResult

Row = dict[str, Any]
SplitName = Literal["all", "hc_he", "lc_le"]
SPLITS: tuple[SplitName, ...] = ("all", "hc_he", "lc_le")

ADDS = pa.schema(
    [
        ("edit_distance", pa.float64()),  # of tokens, divided by the longer response's length
        ("ambiguity", pa.string()),  # hc_he | hc_le | lc_he | lc_le; null without confidence
        ("labels", pa.int64()),  # labels that this pair of responses has
        ("agreement", pa.float64()),  # share of them that say what most say; ½ … 1
        ("ambiguous", pa.bool_()),  # its annotators disagree; null with one label
    ]
)


class AmbiguitySettings(Settings):
    """Settings of the `ambiguity` stage.

    Attributes:
        model: whose tokenizer cuts texts into tokens; None takes words.
        keep: the split whose rows go on; the others are left out and counted.
        ties: whether values at the median count as `high`, as `low`, or as neither (`out`, with
            which the means of TL;DR's splits are those published: confidences are whole numbers,
            so many lie at the median).
    """

    model: str | None = None
    keep: SplitName = "all"
    ties: Literal["out", "high", "low"] = "out"


@dataclass
class Labels:
    """How often each of a pair's two responses was preferred."""

    first: int = 0
    second: int = 0

    @property
    def count(self) -> int:
        """Labels in all."""
        return self.first + self.second

    @property
    def agreement(self) -> float:
        """Share of labels that say what most say."""
        return max(self.first, self.second) / self.count

    @property
    def agreeing(self) -> tuple[int, int]:
        """Pairs of labels that agree, and all pairs of labels."""
        same = self.first * (self.first - 1) + self.second * (self.second - 1)
        return same // 2, self.count * (self.count - 1) // 2


@dataclass
class Seen:
    """What the first pass over the rows finds."""

    distances: list[float] = field(default_factory=list)
    confidences: list[float | None] = field(default_factory=list)
    labels: dict[int, Labels] = field(default_factory=lambda: defaultdict(Labels))


def run(context: StageContext, settings: AmbiguitySettings) -> StageResult:
    """Measure every pair, cut at the medians, write the wanted split.

    Raises:
        ValueError: no row has a confidence, so that there is nothing to cut.
    """
    cut = cutter(settings.model)
    seen = look(context.rows(), cut)
    known = [value for value in seen.confidences if value is not None]
    if not known:
        raise ValueError(
            f"stages.{context.name}: no row of {context.rows()} has a confidence; expected a "
            "number from 1 to 9 from the annotator (formats tldr and tinyworld have one)"
        )
    medians = statistics.median(known), statistics.median(seen.distances)
    table: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    rejects: list[Any] = []

    def rows() -> Iterator[Row]:
        for place, row in enumerate(storage.read_rows(context.rows())):
            distance, confidence = seen.distances[place], row["confidence"]
            name = split_of(confidence, distance, medians, settings.ties)
            if confidence is not None:
                for split in SPLITS:
                    if split in ("all", name):
                        table[(split, row["split"])].append((confidence, distance))
            if settings.keep not in ("all", name):
                why = f"{name or 'at a median or without confidence'}, wanted {settings.keep}"
                rejects.append(reject(row, RejectKind.FILTERED, "other_split", why))
                continue
            yield {**row, **added(row, seen, name, distance)}

    schema = storage.schema(context.rows()).remove_metadata()
    columns = pa.schema([*(f for f in schema if f.name not in ADDS.names), *ADDS])
    written = storage.write_rows(storage.join(context.out, storage.ROWS), rows(), columns)
    storage.write_rows(storage.join(context.out, storage.REJECTS), iter(rejects), REJECT)
    splits = statistics_of(table)
    repeated = agreement_of(seen.labels)
    metrics = {f"rows/{each['split']}": float(each["rows"]) for each in splits}
    metrics |= {f"agreement/{name}": value for name, value in repeated.items()}
    return StageResult(
        rows_in=len(seen.distances),
        rows_out=written,
        rejects=counts(rejects),
        metrics=metrics,
        details={
            "splits": splits,
            "medians": {"confidence": medians[0], "edit_distance": medians[1]},
            "agreement": repeated,
        },
    )


def cutter(model: str | None) -> Callable[[str], Sequence[Any]]:
    """From a text to its tokens."""
    if model is None:
        return str.split
    tokenizer = tokens.load_tokenizer(model)

    def cut(text: str) -> Sequence[Any]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    return cut


def look(rows: str, cut: Callable[[str], Sequence[Any]]) -> Seen:
    """Distances and confidences of all rows in order, and the labels of each pair."""
    seen = Seen()
    columns = ["prompt", "chosen", "rejected", "confidence"]
    for row in storage.read_rows(rows, columns):
        chosen, rejected = (row[side][-1]["content"] for side in ("chosen", "rejected"))
        seen.distances.append(edit_distance.normalised(cut(chosen), cut(rejected)))
        seen.confidences.append(row["confidence"])
        labels = seen.labels[pair_key(row)]
        if chosen <= rejected:
            labels.first += 1
        else:
            labels.second += 1
    return seen


def pair_key(row: Row) -> int:
    """Names a prompt with two responses, whichever of them was preferred."""
    both = sorted(row[side][-1]["content"] for side in ("chosen", "rejected"))
    return xxhash.xxh3_64_intdigest(json.dumps([row["prompt"], both], sort_keys=True).encode())


def split_of(
    confidence: float | None, distance: float, medians: tuple[float, float], ties: str
) -> str | None:
    """`hc_he`, `hc_le`, `lc_he` or `lc_le`; None at a median (with ties `out`) or unknown."""
    if confidence is None:
        return None
    sides = []
    for value, median in zip((confidence, distance), medians, strict=True):
        if value == median and ties == "out":
            return None
        sides.append("h" if value > median or (value == median and ties == "high") else "l")
    return f"{sides[0]}c_{sides[1]}e"


def added(row: Row, seen: Seen, name: str | None, distance: float) -> Row:
    """The columns of a row."""
    labels = seen.labels[pair_key(row)]
    return {
        "edit_distance": distance,
        "ambiguity": name,
        "labels": labels.count,
        "agreement": labels.agreement,
        "ambiguous": labels.agreement < 1 if labels.count > 1 else None,
    }


def statistics_of(table: dict[tuple[str, str], list[tuple[float, float]]]) -> list[Row]:
    """The paper's table: rows and means of each split, with its rows by training split."""
    found = []
    for name in SPLITS:
        parts = {split: values for (own, split), values in table.items() if own == name}
        values = [value for part in parts.values() for value in part]
        found.append(
            {
                "split": name,
                "rows": len(values),
                "confidence": statistics.fmean(c for c, _ in values) if values else None,
                "edit_distance": statistics.fmean(d for _, d in values) if values else None,
                **{f"rows_{split}": len(part) for split, part in sorted(parts.items())},
            }
        )
    return found


def agreement_of(labels: dict[int, Labels]) -> dict[str, float]:
    """Repeated labels in numbers: `pairwise` is the share of two labels of a pair that agree."""
    repeated = [each for each in labels.values() if each.count > 1]
    agreeing = Counter[str]()
    for each in repeated:
        same, both = each.agreeing
        agreeing.update({"same": same, "both": both, "unanimous": each.agreement == 1})
    found = {"pairs": float(len(labels)), "repeated": float(len(repeated))}
    if repeated:
        found |= {
            "pairwise": agreeing["same"] / agreeing["both"],
            "unanimous": agreeing["unanimous"] / len(repeated),
            "ambiguous": float(len(repeated) - agreeing["unanimous"]),
        }
    return found


STAGE = Stage(
    kind="ambiguity",
    settings=AmbiguitySettings,
    run=run,
    reads={"rows": Reads("rows", ("id", "split", "prompt", "chosen", "rejected", "confidence"))},
    adds=tuple(ADDS.names),
    estimate=estimates.ambiguity,
)
