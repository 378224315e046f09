"""Plots: numbers on axes, and pictures that are well-formed whatever they are given."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayonale.report import charts
from rayonale.report.charts import Bar, Dot, Histogram, Series
from rayonale.report.drawing import RIGHT, WIDTH, Axis, span, tick_text, ticks

HOSTILE = '<script>alert("x")</script>&amp;\'"'


def parsed(figure: object) -> ElementTree.Element:
    return ElementTree.fromstring(str(figure))


def test_ticks_are_round_numbers_inside_the_range() -> None:
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ticks(-23, 31) == [-20, 0, 20]
    assert ticks(0, 12, whole=True) == [0, 3, 6, 9, 12]
    assert ticks(0, 2, whole=True) == [0, 1, 2]
    assert ticks(0.6931, 0.6933) == [0.6931, 0.69315, 0.6932, 0.69325, 0.6933]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (-20, "−20"), (1_500, "1,500"), (20_000, "20k"), (4e-4, "4e−4")],
)
def test_tick_texts(value: float, text: str) -> None:
    assert tick_text(value) == text


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=6))
def test_a_range_is_never_empty(values: list[float]) -> None:
    low, high = span([v for v in values if math.isnan(v) or abs(v) < 1e12])
    assert low < high


def test_axis_maps_data_to_pixels_and_stops_at_the_edge() -> None:
    axis = Axis(0, 10, 100, 300)
    assert [axis.at(v) for v in (0, 5, 10, 99, -99)] == [100, 200, 300, 300, 100]


def test_every_chart_is_well_formed_and_escapes_its_texts() -> None:
    figures = [
        charts.lines(HOSTILE, [Series(HOSTILE, "s1", [0, 1, 2], [1.0, None, 3.0])],
                     x_label=HOSTILE, y_label=HOSTILE, level=0.0, note=HOSTILE),
        charts.dots(HOSTILE, [Dot(HOSTILE, HOSTILE, "s1", 1, 0.5, 1.5),
                              Dot("b", "c", "s2", 2, 2, 2)], x_label=HOSTILE, x_range=(0, 3)),
        charts.ridges(HOSTILE, [Histogram(HOSTILE, "s1", [0, 1, 2], [3, 4], 1.2)],
                      x_label=HOSTILE),
        charts.bars(HOSTILE, [Bar(HOSTILE, (1, 2))], [(HOSTILE, "s1"), ("b", "s2")],
                    x_label=HOSTILE, y_label=HOSTILE),
    ]  # fmt: skip
    for figure in figures:
        tree = parsed(figure)
        assert not [node for node in tree.iter() if node.tag.endswith("script")]
        title = next(node for node in tree.iter() if node.tag == "figcaption")
        assert title.text == HOSTILE
        svg = next(node for node in tree.iter() if node.tag == "svg")
        assert svg.get("role") == "img" and svg.get("aria-labelledby")


def test_nothing_to_draw_is_no_figure() -> None:
    assert charts.lines("t", [Series("a", "s1", [0], [math.nan])], x_label="", y_label="") is None
    assert charts.dots("t", [], x_label="", x_range=(0, 1)) is None
    assert charts.ridges("t", [Histogram("a", "s1", [0, 1], [0])], x_label="") is None
    assert charts.bars("t", [Bar("1", (0,))], [("a", "s1")], x_label="", y_label="") is None
    assert str(charts.grid([None, None])) == ""


def test_long_curves_are_thinned_and_keep_their_last_point() -> None:
    xs = list(range(100_000))
    figure = charts.lines(
        "t", [Series("a", "s1", xs, [float(x) for x in xs])], x_label="x", y_label="y"
    )
    assert len(str(figure)) < 12_000
    assert f"{WIDTH - RIGHT:g} " in str(figure)


def test_a_single_point_and_a_flat_line_are_drawn() -> None:
    for ys in ([0.5], [0.5, 0.5]):
        figure = charts.lines(
            "t", [Series("a", "s1", list(range(len(ys))), ys)], x_label="x", y_label="y"
        )
        assert "nan" not in str(figure) and "<path" in str(figure)


def test_rows_of_one_dot_each_are_as_high_as_one() -> None:
    """Twenty judges, a row each, are no taller than twenty rows, and need no legend."""

    def height(rows: int, names: int) -> int:
        found = [
            Dot(f"row {row}", f"row {row}" if names == 1 else f"name {name}", "s1", 1, 0.5, 1.5)
            for row in range(rows)
            for name in range(names)
        ]
        figure = charts.dots("t", found, x_label="", x_range=(0, 2))
        assert figure is not None and ("legend" in str(figure)) == (names > 1)
        (drawing,) = parsed(figure).iter("svg")
        return int(drawing.attrib["viewBox"].split()[3])

    assert height(20, 1) - height(10, 1) == 10 * (11 + 12)
    assert height(20, 3) - height(10, 3) == 10 * (3 * 11 + 12)
