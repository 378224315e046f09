"""What plots are made of: scales, round ticks, a frame with labels, a titled figure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 420, 270
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 44

_ids = itertools.count(1)


@dataclass(frozen=True)
class Axis:
    """A linear scale: data from `low` to `high` onto pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Pixel of a value; values outside end at the edge."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def ticks(low: float, high: float, count: int = 5, whole: bool = False) -> list[float]:
    """About `count` round numbers that lie within [low, high]; `whole` ones for things counted."""
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999), 10 * power)
    if whole:
        step = max(1.0, math.ceil(step))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def tick_text(value: float) -> str:
    """A tick's label: no trailing zeros, thousands as k."""
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    if abs(value) >= 1_000:
        return f"{value:,.0f}".replace("-", "−")
    if 0 < abs(value) < 1e-3:
        power = math.floor(math.log10(abs(value)) + 1e-9)
        return f"{value / 10.0**power:.3g}e{power}".replace("-", "−")
    return f"{value:g}".replace("-", "−") if value else "0"


def span(values: Sequence[float], pad: float = 0.04) -> tuple[float, float]:
    """Range of values with a little room; never empty."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    if low == high:
        room = abs(low) * 0.1 or 1.0
        return low - room, high + room
    room = (high - low) * pad
    return low - room, high + room


def frame(
    x: Axis, y: Axis, x_label: str, y_label: str, *, x_ticks: bool = True, whole: bool = False
) -> list[Markup]:
    """Grid lines, tick labels and axis labels."""
    parts = []
    for value in ticks(y.low, y.high):
        at = y.at(value)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            x.start, x.end, at, at))  # fmt: skip
        parts.append(Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(
            x.start - 6, at + 4, tick_text(value)))  # fmt: skip
    for value in ticks(x.low, x.high, whole=whole) if x_ticks else []:
        at = x.at(value)
        parts.append(Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            at, at, y.start, y.start + 4))  # fmt: skip
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                at, y.start + 17, tick_text(value)))  # fmt: skip
    parts.append(Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
        x.start, x.end, y.start, y.start))  # fmt: skip
    parts.append(Markup('<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>').format(
        (x.start + x.end) / 2, y.start + 36, x_label))  # fmt: skip
    middle = (y.start + y.end) / 2
    parts.append(
        Markup('<text class="label" x="11" y="{0}" text-anchor="middle" '
               'transform="rotate(-90 11 {0})">{1}</text>').format(middle, y_label))  # fmt: skip
    return parts


def axes(
    x_range: tuple[float, float], y_range: tuple[float, float], height: int = HEIGHT
) -> tuple[Axis, Axis]:
    """The plot area's two scales."""
    return (
        Axis(*x_range, LEFT, WIDTH - RIGHT),
        Axis(*y_range, height - BOTTOM, TOP),
    )


def figure(
    title: str,
    body: Sequence[Markup],
    *,
    legend: Sequence[tuple[str, str]] = (),
    told: str = "",
    note: str = "",
    height: int = HEIGHT,
) -> Markup:
    """A titled figure around SVG parts.

    Args:
        legend: (name, colour class) pairs.
        told: the text alternative: what the picture shows, in words and numbers.
        note: a line below the picture.
    """
    number = next(_ids)
    keys = Markup("").join(
        Markup('<li><span class="key {}"></span>{}</li>').format(css, name) for name, css in legend
    )
    return Markup(
        '<figure class="plot"><figcaption>{title}</figcaption>{legend}'
        '<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="t{n} d{n}">'
        '<title id="t{n}">{title}</title><desc id="d{n}">{told}</desc>{body}</svg>{note}</figure>'
    ).format(
        title=title,
        legend=Markup('<ul class="legend">{}</ul>').format(keys) if len(legend) else "",
        width=WIDTH,
        height=height,
        n=number,
        told=told or title,
        body=Markup("").join(body),
        note=Markup('<p class="note">{}</p>').format(note) if note else "",
    )
