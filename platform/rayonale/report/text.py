"""Data text on the page: always text, never markup; visible, bounded, in plain words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from rayonale.evaluate.scorers import SCORERS
from rayonale.records import Message

# Control characters, made visible (U+2400 pictures); tab and newline stay.
_PICTURES: dict[int, int | None] = {c: 0x2400 + c for c in range(32) if c not in (9, 10)}
_PICTURES |= {13: None, 127: 0x2421} | dict.fromkeys(range(128, 160), 0xFFFD)


def visible(text: str | None, limit: int = 3_000) -> str:
    """Text with control characters shown as pictures, cut at `limit` with a note of the rest."""
    if text is None:
        return ""
    cut = text[:limit]
    rest = len(text) - len(cut)
    told = cut.translate(_PICTURES)
    return f"{told} … ({rest:,} more characters)" if rest else told


def conversation(messages: Sequence[Message] | None, limit: int = 3_000) -> str:
    """Messages as text: one turn is its content, several are told apart by role."""
    if not messages:
        return ""
    if len(messages) == 1:
        return visible(messages[0]["content"], limit)
    return visible("\n\n".join(f"{m['role']}: {m['content']}" for m in messages), limit)


def json_script(value: Any) -> Markup:
    """JSON that stands safely inside a `<script>` element, whatever its strings hold."""
    told = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "<>&\u2028\u2029":
        told = told.replace(char, f"\\u{ord(char):04x}")
    return Markup(told)


def judge_label(name: str) -> str:
    """What a judge is called: a scorer by its label, a model as "judge <name>"."""
    if name in SCORERS:
        return SCORERS[name].label
    return name if "judge" in name.lower() else f"judge {name}"


def anchor(name: str) -> str:
    """The id of a stage's card."""
    return "stage-" + "".join(c if c.isalnum() or c in "-_" else f".{ord(c):x}" for c in name)


def number(value: float | None, digits: int = 2) -> str:
    """A number with a fixed count of decimals; a dash for none."""
    return "–" if value is None else f"{value:,.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, for differences."""
    return f"{value:+,.{digits}f}".replace("-", "−")


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage."""
    return "–" if value is None else f"{100 * value:.{digits}f}\u00a0%"


def interval(low: float, high: float, *, share: bool = False, digits: int = 2) -> str:
    """Bounds of an interval: `[58.1, 68.4]`; shares are in per cent."""
    if share:
        return f"[{100 * low:.1f}, {100 * high:.1f}]".replace("-", "−")
    return f"[{low:,.{digits}f}, {high:,.{digits}f}]".replace("-", "−")


def duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
