"""What a data format is: a function from a raw record to a converted row, and how to know it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Format:
    """A layout of raw records.

    Attributes:
        name: as in settings, and in the rows' `format` column.
        row_type: a key of `records.ROW_TYPES`.
        convert: raw record → columns of the row (origin columns apart; `metadata` as a dict, what
            was not converted). Raises `fields.BadRow`, and nothing else, for a bad record.
        matches: whether a record looks like this layout. Layouts are told apart by it, so it is
            strict about what others also have; never raises for an object.
        expects: the fields, in words, for messages.
    """

    name: str
    row_type: str
    convert: Callable[[dict[str, Any]], dict[str, Any]]
    matches: Callable[[dict[str, Any]], bool]
    expects: str
