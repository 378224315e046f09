"""Lines in bounded memory."""

import io
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayonale.data import lines
from rayonale.data.lines import Line, bounded_lines


def read(data, max_bytes=100, **kwargs):
    return list(bounded_lines(io.BytesIO(data), max_bytes, **kwargs))


def test_lines_numbers_and_blank_lines():
    assert read(b"a\n\n  \nb\r\nc") == [Line(1, b"a", 0), Line(4, b"b\r", 0), Line(5, b"c", 0)]
    assert read(b"") == read(b"\n\n") == []
    assert read(b"a\nb", first=7) == [Line(7, b"a", 0), Line(8, b"b", 0)]
    assert read(b"a\nb\nc\n", length=4) == [Line(1, b"a", 0), Line(2, b"b", 0)]


def test_limit_is_inclusive_and_a_longer_line_does_not_hide_the_next():
    assert read(b"12345\n123456\nx\n", 5) == [
        Line(1, b"12345", 0),
        Line(2, b"123456", 6),
        Line(3, b"x", 0),
    ]
    assert read(b"x\n" + b"y" * 1000, 5) == [Line(1, b"x", 0), Line(2, b"y" * 200, 1000)]


@given(st.lists(st.binary(max_size=30)), st.integers(1, 8), st.integers(1, 20))
def test_any_chunking_gives_the_same_lines(pieces, chunk, limit):
    data = b"\n".join(pieces)
    expected = [
        (number, len(piece))
        for number, piece in enumerate(data.split(b"\n"), start=1)
        if piece and (len(piece) > limit or not piece.isspace())
    ]
    before, lines._CHUNK = lines._CHUNK, chunk
    try:
        found = read(data, limit)
    finally:
        lines._CHUNK = before
    assert [(line.number, line.cut_from or len(line.data)) for line in found] == expected
    for line in found:
        assert (line.cut_from > 0) == (line.cut_from > limit)


class Endless(io.RawIOBase):
    """300 MB without a line end, then a line."""

    def __init__(self):
        self.left = 300

    def read(self, size=-1):
        self.left -= 1
        if self.left == 0:
            return b"\nlast\n"
        return b"x" * 1_000_000 if self.left > 0 else b""


@pytest.mark.parametrize("limit", [1_000, 5_000_000])
def test_memory_does_not_follow_the_line(limit):
    tracemalloc.start()
    found = list(bounded_lines(Endless(), limit))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [(line.number, line.cut_from) for line in found] == [(1, 299_000_000), (2, 0)]
    assert peak < limit * 3 + 10_000_000
