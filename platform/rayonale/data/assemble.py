"""What only the whole of the rows can decide: occurrences, duplicates, leakage, mixing.

Blocks are read in source order, and of them only keys (16 bytes a row): neither the number of
workers nor the order in which they finished shows in the result, and memory does not grow with
the texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rayonale.data import blocks, ids, mixing, splits
from rayonale.data.conversion import KEY, OWN_KEY, PROMPT_KEY

KEPT, DUPLICATE, BEYOND_SHARE = 0, 1, 2
VERDICTS = {
    DUPLICATE: ("invalid", "duplicate_id", "an earlier row of this source has the same id"),
    BEYOND_SHARE: ("limit", "mixture_share", "beyond its source's share of the mixture"),
}


@dataclass
class Decision:
    """What the whole decides about each row, by its position in source order.

    Attributes:
        occurrence: of each row, [N].
        verdict: of each row, [N]: KEPT, DUPLICATE or BEYOND_SHARE.
        order: source numbers in output order, or None for source after source.
        shares: source → split → rows kept.
    """

    occurrence: NDArray[np.int64]
    verdict: NDArray[np.uint8]
    order: NDArray[np.int64] | None = None
    shares: list[dict[str, int]] = field(default_factory=list)


def decide(converted: blocks.Converted, weights: list[float] | None, seed: int) -> Decision:
    """Occurrences, duplicates of the sources' own ids, and shares of the mixture.

    Raises:
        ValueError: a prompt is in two splits (a source was given a fixed split).
    """
    total = converted.total
    verdict = np.full(total, KEPT, dtype=np.uint8)
    if any(block.conversion.id_field is not None for block in converted.blocks):
        repeated, _ = ids.repeats(converted.keys(OWN_KEY), total)
        verdict[repeated[_has_own_id(converted)[repeated]]] = DUPLICATE
    occurrence = _occurrences(converted, verdict, total)
    numbers = converted.split_numbers()
    _check_leaks(converted, numbers, total)
    decision = Decision(occurrence, verdict)
    source = np.repeat(np.arange(len(converted.source_sizes())), converted.source_sizes())
    if weights is not None:
        _mix(converted, decision, source, numbers, weights=weights, seed=seed)
    kept = verdict == KEPT
    decision.shares = [
        {
            name: int((kept & (source == s) & (numbers == i)).sum())
            for i, name in enumerate(splits.NAMES)
        }
        for s in range(len(converted.source_sizes()))
    ]
    return decision


def _has_own_id(converted: blocks.Converted) -> NDArray[np.bool_]:
    """Which rows have an id of their own, [N]."""
    columns = (blocks.read_file(uri, [OWN_KEY]).column(0) for uri in converted.files())
    found = [column.is_valid().to_numpy() for column in columns]
    return np.concatenate(found or [np.empty(0, dtype=bool)])


def _occurrences(
    converted: blocks.Converted, verdict: NDArray[np.uint8], total: int
) -> NDArray[np.int64]:
    """How many earlier rows that stay have the same content key, [N]."""
    stays = np.flatnonzero(verdict == KEPT)

    def keys() -> Iterator[NDArray[np.uint64]]:
        start = 0
        for words in converted.keys(KEY)():
            yield words[verdict[start : start + len(words)] == KEPT]
            start += len(words)

    where, count = ids.repeats(keys, total)
    occurrence = np.zeros(total, dtype=np.int64)
    occurrence[stays[where]] = count
    return occurrence


def _check_leaks(converted: blocks.Converted, numbers: NDArray[np.uint8], total: int) -> None:
    leaked = splits.leaks(converted.keys(PROMPT_KEY), numbers, total)
    if len(leaked) == 0:
        return
    examples = []
    start = 0
    for uri in converted.files():
        table = blocks.read_file(uri, ["prompt", "split", "source", "line"])
        for place in leaked[(leaked >= start) & (leaked < start + len(table))][:3]:
            row = table.slice(int(place) - start, 1).to_pylist()[0]
            prompt = row["prompt"][-1]["content"][:80]
            examples.append(f"  {row['source']}:{row['line']} ({row['split']}): {prompt!r}")
        start += len(table)
        if len(examples) >= 3:
            break
    told = "\n".join(examples[:3])
    raise ValueError(
        f"splits leak: {len(leaked)} prompt(s) are in more than one split, first seen again in\n"
        f"{told}\nThis comes from a fixed `split` of a source. Take the rows out of the other "
        "source, or leave the fixed splits out: splits by hash never share a prompt."
    )


def _mix(
    converted: blocks.Converted,
    decision: Decision,
    source: NDArray[np.int64],
    numbers: NDArray[np.uint8],
    *,
    weights: list[float],
    seed: int,
) -> None:
    """Mark what is beyond the sources' shares, and lay out the order of the output."""
    draws = np.empty(converted.total, dtype=np.uint64)
    start = 0
    for words in converted.keys(KEY)():
        stop = start + len(words)
        draws[start:stop] = mixing.draw(words, decision.occurrence[start:stop], seed)
        start = stop
    taken = [0] * len(weights)
    for number in range(len(splits.NAMES)):
        places = [
            np.flatnonzero((source == s) & (numbers == number) & (decision.verdict == KEPT))
            for s in range(len(weights))
        ]
        for s, quota in enumerate(mixing.quotas([len(p) for p in places], weights)):
            lowest_first = places[s][np.argsort(draws[places[s]], kind="stable")]
            decision.verdict[lowest_first[quota:]] = BEYOND_SHARE
            taken[s] += quota
    decision.order = mixing.interleave(taken)
