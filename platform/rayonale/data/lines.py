"""Lines of a byte stream in bounded memory, whatever their length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

MAX_LINE_BYTES = 16 << 20  # default: longer lines are not read
_CHUNK = 1 << 20  # bytes
_HEAD = 200  # bytes kept of a line that is too long


class Line(NamedTuple):
    """A line: its 1-based number, its bytes, and its length in bytes when it was cut (else 0)."""

    number: int
    data: bytes
    cut_from: int


def bounded_lines(
    stream: BinaryIO, max_bytes: int, first: int = 1, length: int | None = None
) -> Iterator[Line]:
    """Lines that are not blank, without their ends.

    At most `max_bytes` plus two chunks are held: of a longer line the first bytes come through
    and `cut_from` says how long it was.

    Args:
        stream: binary, positioned at the beginning of a line.
        max_bytes: longest line.
        first: number of that line.
        length: bytes to read (default: all).
    """
    number, carry, dropped, left = first, b"", 0, length
    while chunk := stream.read(_CHUNK if left is None else min(_CHUNK, left)):
        if left is not None:
            left -= len(chunk)
        *complete, last = chunk.split(b"\n")
        for piece in complete:
            if dropped:
                yield Line(number, carry, dropped + len(piece))
            else:
                data = carry + piece if carry else piece
                if len(data) > max_bytes:
                    yield Line(number, data[:_HEAD], len(data))
                elif data and not data.isspace():
                    yield Line(number, data, 0)
            number, carry, dropped = number + 1, b"", 0
        if dropped:
            dropped += len(last)
        elif len(carry) + len(last) > max_bytes:
            dropped, carry = len(carry) + len(last), (carry + last)[:_HEAD]
        else:
            carry += last
    if dropped:
        yield Line(number, carry, dropped)
    elif carry and not carry.isspace():
        yield Line(number, carry, 0)
