"""A sweep's cells together: which of the paper's claims hold, and its figures from our runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from rayonale.report import charts
from rayonale.report.drawing import span
from rayonale.report.evidence import Evidence
from rayonale.report.page import Section, render
from rayonale.report.text import interval, judge_label, number, percent

Row = Mapping[str, Any]

# verdict → (class of its pill, mark)
PILLS = {
    "holds": ("yes", "✓ holds"),
    "does not hold": ("no", "✗ does not hold"),
    "undecided": ("cannot-tell", "? undecided"),
    "not tested": ("untested", "– not tested"),
}


def section(evidence: Evidence) -> Section | None:
    """Claims, figures and tables of every study read; None without one."""
    found = [stage.manifest.get("details") or {} for stage in evidence.of_kind("study")]
    found = [details for details in found if details.get("curves")]
    if not found:
        return None
    blocks = [_block(evidence, details) for details in found]
    shown = [policy for policy in evidence.cells if policy not in evidence.hidden]
    html = render(
        "sections/study.html.jinja", blocks=blocks, pills=PILLS, shown=shown,
        hidden=len(evidence.cells) - len(shown),
    )  # fmt: skip
    keys = ("judge", "baseline", "claims", "curves", "tests", "needed", "against_reference")
    return Section("study", "Study", html, [{k: d[k] for k in keys} for d in found])


def _block(evidence: Evidence, details: Row) -> dict[str, Any]:
    claims = [{**claim, "told": measured(claim)} for claim in details["claims"]]
    return {
        **details,
        "claims": claims,
        "told": headline(claims),
        "label": judge_label(details["judge"]),
        "by_size": _by_size(details),
        "needed": [{**row, **_needed(row)} for row in details["needed"]],
        "plots": charts.grid(_figures(evidence, details)),
        "colours": {method: evidence.colour(method) for method in details["methods"]},
        "several": max(len(row["by_seed"]) for row in details["curves"]) > 1,
    }


def headline(claims: Sequence[Row]) -> str:
    """How many of the claims hold."""
    counted = Counter(claim["verdict"] for claim in claims)
    tested = len(claims) - counted["not tested"]
    return (
        f"Of {tested} claims of the paper that this study tests, {counted['holds']} hold in this "
        f"world, {counted['does not hold']} do not, {counted['undecided']} are undecided."
    )


def measured(claim: Row) -> str:
    """A claim's number with its interval, in its unit."""
    if claim["verdict"] == "not tested":
        return str(claim["why"])
    low, high, value = claim["low"], claim["high"], claim["value"]
    unit = claim["unit"]
    if unit == "share":
        return f"{percent(value)} {interval(low, high, share=True)}"
    if unit == "points":
        return f"{signed(100 * value, 1)} points {interval(100 * low, 100 * high, digits=1)}"
    if unit == "times":
        middle = "outside the sizes measured" if value is None else f"{number(value)} times"
        return f"{middle} [{number(low)}, {'∞' if high is None else number(high)}]"
    digits = 1 if unit == "characters" else 4
    return f"{signed(value, digits)} {unit} {interval(low, high, digits=digits)}"


def signed(value: float, digits: int) -> str:
    """A difference with its sign."""
    return ("+" if value > 0 else "") + number(value, digits)


def _needed(row: Row) -> dict[str, str]:
    """Pairs needed, in words where they lie outside what was measured."""
    few = row["times_fewer"]
    return {
        "value_told": _size(row["value_low"], row["value_high"], row["sizes"]),
        "interval_told": (f"[{_end(row['low'], row['sizes'])}, {_end(row['high'], row['sizes'])}]"),
        "fewer_told": (
            ""
            if few is None
            else measured({"verdict": "", "unit": "times", "value": _only(few), **_ends(few)})
        ),
    }


def _only(found: Row) -> float | None:
    return found["value_low"] if found["value_low"] == found["value_high"] else None


def _ends(found: Row) -> dict[str, Any]:
    return {"low": found["low"], "high": found["high"]}


def _size(low: float, high: float | None, sizes: Sequence[int]) -> str:
    if high is None:
        return f"more than {sizes[-1]:,}"
    return f"at most {sizes[0]:,}" if low == 0 else f"{high:,.0f}"


def _end(value: float | None, sizes: Sequence[int]) -> str:
    if value is None or value >= sizes[-1]:
        return f"> {sizes[-1]:,}"
    return f"< {sizes[0]:,}" if value < sizes[0] else f"{value:,.0f}"


def _by_size(details: Row) -> list[dict[str, Any]]:
    """Rows of the table of win rates, grouped by size."""
    rows = sorted(details["curves"], key=lambda row: (row["size"], _order(details, row["method"])))
    return [{**row, "first": i == 0 or rows[i - 1]["size"] != row["size"]}
            for i, row in enumerate(rows)]  # fmt: skip


def _order(details: Row, method: str) -> int:
    return list(details["methods"]).index(method)


# ---- figures ----------------------------------------------------------------------------------


def _figures(evidence: Evidence, details: Row) -> list[Markup | None]:
    base, reference = details["baseline"], details["reference"]
    curved = [m for m in details["methods"] if len(_of(details["curves"], m)) > 1]
    seeds = max(row["seeds"] for row in details["curves"])
    whiskers = "Whiskers are intervals over seeds and prompts." if seeds > 1 else (
        "Whiskers are intervals over prompts; there is one seed.")  # fmt: skip
    target = details["target"]
    told = f" The methods' tables read sizes off at {percent(target)}." if target else ""
    top = max(_of(details["curves"], reference), key=lambda row: row["size"])["size"]
    return [
        charts.lines(
            f"Win rate against {base} by training size",
            _lines(evidence, details["curves"], curved),
            x_label="training pairs", y_label="win rate (%)", level=50.0,
            note=f"The paper's figure 2. {whiskers}{told}",
        ),
        charts.lines(
            f"Win rate against {reference} with {top:,} pairs",
            _lines(evidence, details["against_reference"], [m for m in curved if m != reference]),
            x_label="training pairs", y_label="win rate (%)", level=50.0,
            note=f"The paper's figures 3 and 8, right: each size against the {reference} policies "
            "with the most pairs.",
        ),
        _largest(evidence, details),
        _margins(evidence, details),
        _lengths(evidence, details),
    ]  # fmt: skip


def _of(rows: Sequence[Row], method: str) -> list[Row]:
    return sorted((row for row in rows if row["method"] == method), key=lambda row: row["size"])


def _lines(evidence: Evidence, rows: Sequence[Row], methods: Sequence[str]) -> list[charts.Series]:
    return [
        charts.Series(
            method, evidence.colour(method), [row["size"] for row in mine],
            [100 * row["value"] for row in mine], marks=True,
            bars=[(100 * row["low"], 100 * row["high"]) for row in mine],
        )
        for method in methods
        if (mine := _of(rows, method))
    ]  # fmt: skip


def _largest(evidence: Evidence, details: Row) -> Markup | None:
    """Every method at its largest size against the baseline, controls among them."""
    found = [_of(details["curves"], method)[-1] for method in details["methods"]
             if _of(details["curves"], method)]  # fmt: skip
    dots = [
        charts.Dot(
            f"{row['method']} ({row['size']:,})", "win rate", evidence.colour(row["method"]),
            100 * row["value"], 100 * row["low"], 100 * row["high"],
        )
        for row in found
    ]  # fmt: skip
    return charts.dots(
        f"All methods at their largest size, against {details['baseline']}", dots,
        x_label="win rate (%)", x_range=span([e for d in dots for e in (d.low, d.high, 50.0)], 0.1),
        note="The paper's figure 8, left, and table 7: kinds of rationales and controls.",
    )  # fmt: skip


def _margins(evidence: Evidence, details: Row) -> Markup | None:
    series = [
        charts.Series(
            row["method"], evidence.colour(row["method"]),
            [100 * (at + 0.5) / len(row["sorted"]) for at in range(len(row["sorted"]))],
            row["sorted"],
        )
        for row in details["margins"]
    ]  # fmt: skip
    return charts.lines(
        "Margins of held-out pairs, sorted, mean over seeds", series,
        x_label="share of pairs (%)", y_label="β·Δ (nats)", level=0.0,
        note="What the paper's text calls figure 4, at the largest size.",
    )  # fmt: skip


def _lengths(evidence: Evidence, details: Row) -> Markup | None:
    found = [(method, _of(details["curves"], method)) for method in details["methods"]]
    dots = [
        charts.Dot(
            f"{method} ({rows[-1]['size']:,})", "length", evidence.colour(method),
            rows[-1]["length"]["value"], rows[-1]["length"]["low"], rows[-1]["length"]["high"],
        )
        for method, rows in found
        if rows and rows[-1]["length"]
    ]  # fmt: skip
    return charts.dots(
        "Mean length of answers", dots, x_label="characters",
        x_range=span([end for dot in dots for end in (dot.low, dot.high)], 0.1),
        note="Beside the win rates, as the paper's figure 4 has lengths beside AlpacaEval's.",
    )  # fmt: skip
