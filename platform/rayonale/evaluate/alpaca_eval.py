"""AlpacaEval 2: win rates from annotations, as its leaderboard prints them.

    annotations.json ─ read_annotations ─► Annotations ─┬─ win_rate ─► WR, SE, discrete, length
    rows of the win_rates stage ─ to_annotations ─►     └─ length_control.py ─► LC win rate

An annotation is a judge's preference between a baseline's output (1) and a model's (2)::

    {"index": 3, "instruction": "…", "generator_1": "gpt4_1106_preview", "output_1": "…",
     "generator_2": "claude-2.1", "output_2": "…", "preference": 1.0109869438}

A preference is a number from 1 (the baseline is better) to 2 (the model is); soft judges give
what lies between; 1.5 and, in older files, 0 is a tie; null is a pair that was not annotated. The
compact form has the numbers of characters `len_1` and `len_2` in place of the outputs.

Source: github.com/tatsu-lab/alpaca_eval (definitions of its leaderboard's columns).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayonale import storage
from rayonale.enrich.transcript import prompt_text

Floats = NDArray[np.float64]
Row = dict[str, Any]


@dataclass(frozen=True)
class Annotations:
    """A judge's preferences between one model and its baseline; N annotated pairs.

    Attributes:
        model: name of the model (generator 2).
        index: [N] position of each instruction in the set of instructions; -1 where unknown.
        instruction: [N] its text; empty in the compact form.
        preference: [N] probability that the model is better, 0 … 1; a tie is ½.
        length: [N] characters of the model's output.
        length_baseline: [N] characters of the baseline's output.
        unannotated: pairs left out because they have no preference.
    """

    model: str
    index: NDArray[np.int64]
    instruction: tuple[str, ...]
    preference: Floats
    length: Floats
    length_baseline: Floats
    unannotated: int = 0

    def __len__(self) -> int:
        return int(self.preference.size)


@dataclass(frozen=True)
class WinRate:
    """The columns of the leaderboard, in percent unless said otherwise.

    Attributes:
        win_rate: mean preference for the model.
        standard_error: of the win rate: the sample's standard deviation (N − 1) over √N.
        n_wins, n_wins_base, n_draws: preferences above, below and at ½ (counts).
        n_total: annotated pairs (count).
        discrete_win_rate: share of wins, a draw counting half.
        avg_length: mean characters of the model's outputs, rounded down.
    """

    win_rate: float
    standard_error: float
    n_wins: int
    n_wins_base: int
    n_draws: int
    n_total: int
    discrete_win_rate: float
    avg_length: int

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def win_rate(annotations: Annotations) -> WinRate:
    """Win rate, standard error, counts and length of a model's annotations.

    The standard error of a single pair is NaN: there is none.
    """
    told = annotations.preference
    size = len(annotations)
    wins, base = int((told > 0.5).sum()), int((told < 0.5).sum())
    draws = size - wins - base
    error = float(told.std(ddof=1) / math.sqrt(size)) if size > 1 else math.nan
    return WinRate(
        win_rate=100 * float(told.mean()),
        standard_error=100 * error,
        n_wins=wins,
        n_wins_base=base,
        n_draws=draws,
        n_total=size,
        discrete_win_rate=100 * (wins + 0.5 * draws) / size,
        avg_length=int(annotations.length.mean()),
    )


def read_annotations(uri: str) -> dict[str, Annotations]:
    """Annotations of each model in a file, in order of first appearance.

    Args:
        uri: `.json` (a list, as alpaca_eval writes it) or `.jsonl`.

    Raises:
        ValueError: a row lacks a field, has a preference outside its range, or is given twice.
    """
    gathered: dict[str, list[Row]] = {}
    for where, row in _read(uri):
        found = _checked(row, where)
        gathered.setdefault(found["model"], []).append(found)
    if not gathered:
        raise ValueError(f"{uri}: no annotations; expected a list of them")
    return {model: _gather(model, rows, uri) for model, rows in gathered.items()}


def to_annotations(
    rows: Iterable[Mapping[str, Any]], places: Mapping[str, Row] | None = None
) -> list[Row]:
    """Rows of the `win_rates` stage in the published layout: a is the model, b the baseline.

    Several judgements of one pair (repeats) are averaged into one annotation. `raw_completion` is
    what the judge wrote with the baseline shown first.

    Args:
        rows: of one judge; columns as in `comparisons.ROWS`.
        places: prompt id → `index`, `dataset` and `instruction` in the set of instructions; without
            them instructions are numbered by first appearance, so that models judged on the same
            prompts share their numbers.

    Raises:
        ValueError: rows of several judges, several samples of a prompt (the published layout has
            one output of a model for an instruction), or a prompt that is not in the set.
    """
    index: dict[str, int] = {}
    gathered: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        index.setdefault(row["prompt_id"], len(index))
        key = (row["policy_a"], row["policy_b"], row["prompt_id"])
        same = gathered.setdefault(key, [])
        if same and same[0]["sample"] != row["sample"]:
            raise ValueError(
                f"prompt {key[2]!r} of {key[0]} against {key[1]}: samples {same[0]['sample']} "
                f"and {row['sample']}; expected one (n: 1 in the samples stages)"
            )
        same.append(row)
    judges = {row["judge"] for same in gathered.values() for row in same}
    if len(judges) > 1:
        raise ValueError(f"rows of judges {', '.join(sorted(judges))}: expected those of one")
    if places is not None and (missing := [key for key in index if key not in places]):
        raise ValueError(
            f"{len(missing)} judged prompt(s) are none of the instructions read, the first "
            f"{missing[0]!r}; expected the stage whose rows were sampled"
        )
    return [
        {
            "index": index[key[2]],
            "dataset": None,
            "instruction": prompt_text(same[0]["prompt"]),
            **((places or {}).get(key[2]) or {}),
            "generator_1": key[1],
            "output_1": same[0]["response_b"],
            "generator_2": key[0],
            "output_2": same[0]["response_a"],
            "annotator": same[0]["judge"],
            "preference": 1 + math.fsum(row["outcome"] for row in same) / len(same),
            "raw_completion": same[0].get("text_ba"),
        }
        for key, same in gathered.items()
    ]


def from_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Annotations]:
    """`read_annotations` of annotations in memory."""
    gathered: dict[str, list[Row]] = {}
    for number, row in enumerate(rows):
        found = _checked(row, f"annotation {number}")
        gathered.setdefault(found["model"], []).append(found)
    return {model: _gather(model, found, "annotations") for model, found in gathered.items()}


def _read(uri: str) -> Iterable[tuple[str, Row]]:
    """(where, row) of each annotation."""
    fs, path = storage.filesystem(uri)
    text = fs.cat_file(path).decode()
    if uri.endswith(".jsonl"):
        lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        return [(f"{uri}:{number}", json.loads(line)) for number, line in lines]
    return [(f"{uri}[{number}]", row) for number, row in enumerate(json.loads(text))]


def _checked(row: Mapping[str, Any], where: str) -> Row:
    """What is needed of an annotation."""
    compact = "len_2" in row
    needed = ("generator_2", "preference", *(("len_1",) if compact else ("output_1", "output_2")))
    if missing := [name for name in needed if name not in row]:
        raise ValueError(f"{where}: no {', '.join(missing)}; found {', '.join(row)}")
    told = row["preference"]
    if told is not None and not (told == 0 or 1 <= told <= 2):  # NaN is neither
        raise ValueError(f"{where}: preference {told!r}; expected 1 … 2, 0 (a tie) or null")
    return {
        "where": where,
        "model": row["generator_2"],
        "index": int(row.get("index", -1)),
        "instruction": row.get("instruction", ""),
        # 0 is how older files write a tie
        "preference": None if told is None else (0.5 if told == 0 else told - 1),
        "length": row["len_2"] if compact else len(row["output_2"]),
        "length_baseline": row["len_1"] if compact else len(row["output_1"]),
    }


def _gather(model: str, rows: Sequence[Row], uri: str) -> Annotations:
    keys = Counter(row["index"] for row in rows if row["index"] >= 0)
    if twice := [index for index, times in keys.items() if times > 1]:
        second = [row["where"] for row in rows if row["index"] == twice[0]][1]
        raise ValueError(f"{second}: index {twice[0]} of {model!r} comes a second time")
    told = [row for row in rows if row["preference"] is not None]
    if not told:
        raise ValueError(f"{uri}: all {len(rows)} annotations of {model!r} have no preference")
    return Annotations(
        model=model,
        index=np.array([row["index"] for row in told], dtype=np.int64),
        instruction=tuple(row["instruction"] for row in told),
        preference=_floats(told, "preference"),
        length=_floats(told, "length"),
        length_baseline=_floats(told, "length_baseline"),
        unannotated=len(rows) - len(told),
    )


def _floats(rows: Sequence[Row], name: str) -> Floats:
    return np.array([row[name] for row in rows], dtype=np.float64)
