"""Plots as inline SVG: small, readable at phone width, and in light and dark.

Hand-made rather than drawn by a plotting library, because colours come from the page's style
sheet (a policy keeps its colour, dark mode follows the reader's system) and because text keeps a
readable size: the drawing is 420 units wide, about what a phone shows.

Every figure has a title, axis labels with units, a legend in words and a text alternative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from rayonale.report.drawing import (
    BOTTOM,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    axes,
    figure,
    frame,
    span,
    tick_text,
    ticks,
)


@dataclass(frozen=True)
class Series:
    """One line: a name for the legend, a colour class, points; None in `ys` leaves a gap.

    Attributes:
        bars: (low, high) of each point, drawn as a whisker, those of several lines side by side.
    """

    name: str
    css: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    dashed: bool = False
    marks: bool = False
    bars: Sequence[tuple[float, float]] = ()

    def points(self) -> list[tuple[float, float]]:
        """Points that can be drawn."""
        return [
            (float(x), float(y))
            for x, y in zip(self.xs, self.ys, strict=True)
            if y is not None and math.isfinite(y) and math.isfinite(x)
        ]


def path(points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    """SVG path data through points, thinned to what can be seen."""
    stride = max(1, len(points) // 400)
    kept = [p for i, p in enumerate(points) if i % stride == 0 or i == len(points) - 1]
    return "M" + "L".join(f"{x.at(a):g} {y.at(b):g}" for a, b in kept)


def lines(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
    level: float | None = None,
    note: str = "",
) -> Markup | None:
    """A line chart; None when there is no point to draw.

    Args:
        level: a horizontal line for orientation (zero, chance, ln 2 …).
    """
    drawn = [(one, one.points()) for one in series]
    drawn = [(one, points) for one, points in drawn if points]
    if not drawn:
        return None
    everything = [point for _, points in drawn for point in points]
    heights = [b for _, b in everything] + ([level] if level is not None else [])
    heights += [end for one, _ in drawn for bar in one.bars for end in bar]
    x, y = axes(span([a for a, _ in everything], 0.0), y_range or span(heights))
    whole = all(isinstance(place, int) for one in series for place in one.xs)
    body = frame(x, y, x_label, y_label, whole=whole)
    if level is not None:
        body.append(Markup('<line class="level" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            x.start, x.end, y.at(level), y.at(level)))  # fmt: skip
    barred = [one.name for one, _ in drawn if one.bars]
    for one, points in drawn:
        css = f"line {one.css}" + (" dashed" if one.dashed else "")
        body.append(Markup('<path class="{}" d="{}"><title>{}</title></path>').format(
            css, path(points, x, y), one.name))  # fmt: skip
        aside = 4 * (barred.index(one.name) - (len(barred) - 1) / 2) if one.bars else 0.0
        for a, (low, high) in zip(one.xs, one.bars, strict=False):
            body.append(Markup('<line class="whisker thin {}" x1="{x}" x2="{x}" y1="{}" y2="{}"/>')
                        .format(one.css, y.at(low), y.at(high), x=x.at(a) + aside))  # fmt: skip
        for a, b in points if one.marks or len(points) == 1 else []:
            body.append(Markup('<circle class="mark {}" cx="{}" cy="{}" r="3.5"/>').format(
                one.css, x.at(a), y.at(b)))  # fmt: skip
    told = f"{y_label} against {x_label}. " + "; ".join(
        f"{one.name} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for one, points in drawn
    )
    legend = [(one.name, one.css + (" dashed" if one.dashed else "")) for one, _ in drawn]
    return figure(title, body, legend=legend, told=told, note=note)


@dataclass(frozen=True)
class Dot:
    """A value with its interval, in the row `row`."""

    row: str
    name: str
    css: str
    value: float
    low: float
    high: float


def dots(
    title: str, found: Sequence[Dot], *, x_label: str, x_range: tuple[float, float], note: str = ""
) -> Markup | None:
    """Values with intervals, one band per row, several names (colours) within it."""
    if not found:
        return None
    rows = list(dict.fromkeys(dot.row for dot in found))
    names = list(dict.fromkeys(dot.name for dot in found))
    step = 11
    alone = len(found) == len(rows)  # a dot a row, which the row names
    slot = {name: 0 if alone else at for at, name in enumerate(names)}
    band = step * (1 if alone else len(names)) + 12
    height = TOP + band * len(rows) + BOTTOM
    widest = max(len(row) for row in rows) if len(rows) > 1 or rows[0] else 0
    left = min(190, 16 + 7.6 * widest)
    x = Axis(*x_range, left, WIDTH - RIGHT)
    bottom = height - BOTTOM
    body: list[Markup] = []
    for value in ticks(*x_range):
        body.append(Markup('<line class="grid" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
            x.at(value), TOP, bottom))  # fmt: skip
        body.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                x.at(value), bottom + 17, tick_text(value)))  # fmt: skip
    body.append(Markup('<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>').format(
        (x.start + x.end) / 2, bottom + 36, x_label))  # fmt: skip
    for at, row in enumerate(rows):
        top = TOP + band * at
        if at % 2 == 0:
            body.append(Markup('<rect class="band" x="0" y="{}" width="{}" height="{}"/>').format(
                top, WIDTH, band))  # fmt: skip
        body.append(Markup('<text class="row" x="{}" y="{}" text-anchor="end">{}</text>').format(
            left - 8, top + band / 2 + 4, row))  # fmt: skip
    for dot in found:
        y = TOP + band * rows.index(dot.row) + 12 + step * slot[dot.name]
        told = f"{dot.row} {dot.name}: {dot.value:.2f} [{dot.low:.2f}, {dot.high:.2f}]".strip()
        body.append(
            Markup('<g class="{}"><title>{}</title><line class="whisker" x1="{}" x2="{}" '
                   'y1="{y}" y2="{y}"/><circle class="mark" cx="{}" cy="{y}" r="4"/></g>').format(
                dot.css, told, x.at(dot.low), x.at(dot.high), x.at(dot.value), y=y))  # fmt: skip
    keys = [(name, next(d.css for d in found if d.name == name)) for name in names]
    legend = keys if len(names) > 1 and not alone else []
    told = "; ".join(
        f"{d.row} {d.name} {d.value:.2f} [{d.low:.2f}, {d.high:.2f}]".strip() for d in found
    )
    return figure(title, body, legend=legend, told=told, note=note, height=height)


@dataclass(frozen=True)
class Histogram:
    """Counts between edges: len(edges) = len(counts) + 1; `mean` is marked."""

    name: str
    css: str
    edges: Sequence[float]
    counts: Sequence[int]
    mean: float | None = None


def ridges(
    title: str, found: Sequence[Histogram], *, x_label: str, note: str = ""
) -> Markup | None:
    """Distributions one below the other on one axis, each filling its own band."""
    found = [one for one in found if sum(one.counts)]
    if not found:
        return None
    band = 46
    height = TOP + band * len(found) + BOTTOM
    left = min(150, 16 + 7.6 * max(len(one.name) for one in found))
    low, high = min(h.edges[0] for h in found), max(h.edges[-1] for h in found)
    x = Axis(low, high, left, WIDTH - RIGHT)
    bottom = height - BOTTOM
    body: list[Markup] = []
    for value in ticks(low, high):
        body.append(Markup('<line class="grid" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
            x.at(value), TOP, bottom))  # fmt: skip
        body.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                x.at(value), bottom + 17, tick_text(value)))  # fmt: skip
    body.append(Markup('<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>').format(
        (x.start + x.end) / 2, bottom + 36, x_label))  # fmt: skip
    top = max(max(one.counts) / sum(one.counts) for one in found)
    for at, one in enumerate(found):
        ground = TOP + band * (at + 1)
        y = Axis(0, top, ground, ground - band + 8)
        points = [(one.edges[0], 0.0)]
        for number, count in enumerate(one.counts):
            share = count / sum(one.counts)
            points += [(one.edges[number], share), (one.edges[number + 1], share)]
        points.append((one.edges[-1], 0.0))
        data = "M" + "L".join(f"{x.at(a):g} {y.at(b):g}" for a, b in points)
        body.append(Markup('<path class="hill {}" d="{}"><title>{}</title></path>').format(
            one.css, data, one.name))  # fmt: skip
        body.append(Markup('<text class="row" x="{}" y="{}" text-anchor="end">{}</text>').format(
            left - 8, ground - 4, one.name))  # fmt: skip
        if one.mean is not None:
            body.append(Markup('<line class="mean" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
                x.at(one.mean), ground, ground - band + 8))  # fmt: skip
    told = "; ".join(
        f"{h.name}: {sum(h.counts):,} values" + (f", mean {h.mean:.1f}" if h.mean else "")
        for h in found
    )
    return figure(title, body, told=told, note=note, height=height)


@dataclass(frozen=True)
class Bar:
    """One bar: its label below, the counts of its parts from the ground up."""

    label: str
    parts: Sequence[int]


def bars(
    title: str,
    found: Sequence[Bar],
    parts: Sequence[tuple[str, str]],
    *,
    x_label: str,
    y_label: str,
    note: str = "",
) -> Markup | None:
    """Stacked bars.

    Args:
        parts: (name, colour class) of the parts, from the ground up.
    """
    top = max((sum(bar.parts) for bar in found), default=0)
    if not top:
        return None
    height = 210
    x, y = axes((0, len(found)), (0, top * 1.12), height)
    body = frame(x, y, x_label, y_label, x_ticks=False)
    width = (x.end - x.start) / len(found)
    for at, bar in enumerate(found):
        left, ground = x.start + at * width + width * 0.16, 0
        for (name, css), count in zip(parts, bar.parts, strict=True):
            if count:
                tall = round(y.at(ground) - y.at(ground + count), 1)
                body.append(
                    Markup('<rect class="bar {}" x="{:.1f}" y="{}" width="{:.1f}" height="{}" '
                           'rx="2"><title>{}</title></rect>').format(
                        css, left, y.at(ground + count), width * 0.68, max(tall, 1),
                        f"{bar.label} {name}: {count:,}"))  # fmt: skip
            ground += count
        middle = x.start + (at + 0.5) * width
        body.append(
            Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                middle, y.start + 17, bar.label))  # fmt: skip
        if ground:
            body.append(
                Markup('<text class="count" x="{:.1f}" y="{}" text-anchor="middle">{}</text>')
                .format(middle, y.at(ground) - 4, f"{ground:,}"))  # fmt: skip
    told = "; ".join(f"{bar.label}: {sum(bar.parts):,}" for bar in found)
    legend = list(parts) if len(parts) > 1 else []
    return figure(title, body, legend=legend, told=told, note=note, height=height)


def grid(figures: Sequence[Markup | None]) -> Markup:
    """Figures side by side where there is room."""
    kept = [one for one in figures if one is not None]
    return (
        Markup('<div class="plots">{}</div>').format(Markup("").join(kept)) if kept else Markup("")
    )
