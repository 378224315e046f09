"""Weighted mixing of sources.

What a weight means: a source's share of the rows, in every split, is its weight divided by the
sum of the weights. No row is repeated. So of every split the largest mixture with these shares
is taken: the source that runs out first gives all of its rows, the others give what fits. Which
rows of a source stay is drawn by a hash of (seed, id); the others are counted as left out
(`mixture_share`). Rows of the sources are interleaved evenly, so that any beginning of a split
has these shares too, and keep their order within a source.

Without weights all rows of all sources are kept, one source after the other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def quotas(counts: list[int], weights: list[float]) -> list[int]:
    """Rows to take from each source: the largest numbers in proportion to the weights.

    Example: counts [100, 30], weights [1, 1] → [30, 30]; weights [3, 1] → [90, 30].

    A source with no rows in this split cannot give its share: it is left out and the others keep
    their proportions.
    """
    present = [w for n, w in zip(counts, weights, strict=True) if n > 0]
    if not present:
        return [0] * len(counts)
    unit = min(n / w for n, w in zip(counts, weights, strict=True) if n > 0)
    return [
        min(n, int(unit * w + 1e-9)) if n > 0 else 0 for n, w in zip(counts, weights, strict=True)
    ]


def draw(
    words: NDArray[np.uint64], occurrences: NDArray[np.int64], seed: int
) -> NDArray[np.uint64]:
    """A number per row, uniform over 64 bits, that follows from seed and id alone."""
    mixed = words[:, 0] ^ _splitmix(words[:, 1] + occurrences.astype(np.uint64))
    return _splitmix(mixed ^ _splitmix(np.asarray([seed], dtype=np.uint64)))


def _splitmix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def interleave(taken: list[int]) -> NDArray[np.int64]:
    """Order of sources in the output: source numbers, evenly spread.

    Example: [2, 4] → [1, 0, 1, 1, 0, 1].
    """
    sources = np.repeat(np.arange(len(taken)), taken)
    places = np.concatenate([(np.arange(n) + 0.5) / max(n, 1) for n in taken] or [np.empty(0)])
    return sources[np.lexsort((sources, places))]
