"""Tables of MT-Bench judgments: grades by turn and category, records of pairs, with intervals.

The unit of an interval is the question: both turns of one stand and fall together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayonale.evaluate import mt_bench, statistics
from rayonale.evaluate.benchmark_files import Question

Row = dict[str, Any]


def is_readable(row: Mapping[str, Any]) -> bool:
    """Whether a judgment has its grade, or both its winners."""
    if row["other"] is None:
        return row.get("score") is not None
    return row.get("winner_1") is not None and row.get("winner_2") is not None


def grades(rows: Sequence[Row], *, level: float, seed: int) -> dict[str, Any]:
    """Mean grades of each model, best first: over all, by turn, by category.

    Args:
        rows: judgments, the unreadable ones (score None) among them.

    A model of which no judgment could be read has no score.
    """
    questions = [Question(row["question_id"], row["category"], ()) for row in rows]
    named = {row["model"] for row in rows if is_readable(row)}
    told = [row | {"score": row.get("score")} for row in rows if row["model"] in named]
    table: list[Row] = [
        {"model": model, "score": None, "low": None, "high": None, "level": level, "turns": {},
         "categories": {}, "graded": 0,
         "unreadable": sum(row["model"] == model for row in rows)}
        for model in dict.fromkeys(row["model"] for row in rows)
        if model not in named
    ]  # fmt: skip
    for model, found in mt_bench.scores(told, questions).items():
        read = [row for row in rows if row["model"] == model and is_readable(row)]
        means = statistics.by_prompt(
            [row["score"] for row in read], [row["question_id"] for row in read]
        )
        interval = statistics.mean_interval(
            list(means.values()), seed=seed, level=level, bounds=(1, 10)
        )
        table.append(
            {
                "model": model,
                "score": found.overall,
                "low": interval.low,
                "high": interval.high,
                "level": level,
                "turns": {str(turn): mean for turn, mean in found.by_turn.items()},
                "categories": found.by_category,
                "graded": found.graded,
                "unreadable": found.unreadable,
            }
        )
    return {"mt_bench": sorted(table, key=lambda one: -(one["score"] or 0))}


def wins(rows: Sequence[Row], *, level: float, seed: int) -> dict[str, Any]:
    """Record of each pair of models, the first against the second.

    A game in each order: the model that wins both wins, everything else is a tie (as published).
    """
    table = []
    for pair in dict.fromkeys((row["model"], row["other"]) for row in rows):
        mine = [row for row in rows if (row["model"], row["other"]) == pair]
        records = mt_bench.pairwise_wins(
            {"model_1": row["model"], "model_2": row["other"],
             "g1_winner": row.get("winner_1") or "error",
             "g2_winner": row.get("winner_2") or "error"}
            for row in mine
        )  # fmt: skip
        record = records[pair[0]]
        read = [row for row in mine if is_readable(row)]
        entry: Row = {"model": pair[0], "other": pair[1], "win_rate": None, "low": None,
                      "high": None}  # fmt: skip
        if read:
            outcomes = [outcome(row) for row in read]
            keys = [row["question_id"] for row in read]
            rate = statistics.win_rate(outcomes, keys, seed=seed, level=level)
            entry |= {"win_rate": 100 * rate.value, "low": 100 * rate.low, "high": 100 * rate.high}
        entry |= {"wins": record.wins, "losses": record.losses, "ties": record.ties,
                  "flipped": record.flipped, "unreadable": record.unreadable, "level": level,
                  "turns": _by(read, "turn"), "categories": _by(read, "category")}  # fmt: skip
        table.append(entry)
    return {"mt_bench_pairs": table}


def outcome(row: Mapping[str, Any]) -> float:
    """1 when the first model won both games, 0 when the second did, else ½."""
    told = {row["winner_1"], row["winner_2"]}
    return {"model_1": 1.0, "model_2": 0.0}.get(told.pop(), 0.5) if len(told) == 1 else 0.5


def _by(rows: Sequence[Row], column: str) -> dict[str, float]:
    """Win rate in percent of the first model, by turn or category."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(str(row[column]), []).append(outcome(row))
    return {key: 100 * sum(values) / len(values) for key, values in groups.items()}


def metrics(tables: Mapping[str, Sequence[Row]]) -> dict[str, float]:
    """The tables as flat names and numbers, for MLflow and the manifest."""
    flat: dict[str, float | None] = {}
    for row in tables.get("mt_bench", ()):
        at = f"mt_bench/{row['model']}"
        flat |= {f"{at}/score": row["score"], f"{at}/low": row["low"], f"{at}/high": row["high"],
                 f"{at}/unreadable": row["unreadable"]}  # fmt: skip
        flat |= {f"{at}/turn_{turn}": mean for turn, mean in row["turns"].items()}
        flat |= {f"{at}/{name}": mean for name, mean in row["categories"].items()}
    for row in tables.get("mt_bench_pairs", ()):
        at = f"mt_bench/{row['model']}_vs_{row['other']}"
        flat |= {f"{at}/{name}": row[name]
                 for name in ("win_rate", "low", "high", "flipped", "unreadable")}  # fmt: skip
    return {name: float(value) for name, value in flat.items() if value is not None}
