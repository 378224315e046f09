"""Levenshtein distance of token sequences, bit-parallel: one word of any width a token."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def distance(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Fewest insertions, deletions and substitutions of tokens that make one the other.

    Myers 1999 in Hyyrö's form (2001), with Python's integers as bit vectors: a column of the
    table is one step whatever its length.

    Args:
        first, second: tokens.
    """
    if len(first) > len(second):
        first, second = second, first
    if not first:
        return len(second)
    places: dict[Hashable, int] = {}
    for place, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << place
    full, last = (1 << len(first)) - 1, 1 << (len(first) - 1)
    plus, minus, found = full, 0, len(first)  # vertical differences +1, −1; the bottom cell
    for token in second:
        equal = places.get(token, 0)
        diagonal = (((equal & plus) + plus) ^ plus) | equal | minus
        rise, fall = minus | ~(diagonal | plus) & full, plus & diagonal
        found += bool(rise & last) - bool(fall & last)
        rise, fall = (rise << 1 | 1) & full, fall << 1 & full
        plus, minus = fall | ~(diagonal | rise) & full, rise & diagonal
    return found


def normalised(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """The distance divided by the longer one's length: 0 for equal, 1 for nothing in common."""
    longest = max(len(first), len(second))
    return distance(first, second) / longest if longest else 0.0
