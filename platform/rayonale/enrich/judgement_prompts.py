"""What a judge is shown: a row's responses through a template, one at a time or two in an order.

    one response    pointwise template(prompt, response, rubric, reference)          order null
    two responses   pairwise template(prompt, response_1, response_2, rubric, …)     ab, ba
    two, apart      pointwise template of each                                       a, b

A verdict is kept in terms of the row: 1 means that `responses[0]` is better, in either order.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import xxhash
import yaml

from rayonale import prompts
from rayonale.data.formats.judged import rubric_of
from rayonale.enrich.transcript import prompt_text, response_text

Row = dict[str, Any]
Shown = Literal["rubric", "reference"]
Orders = Literal["both", "ab", "shuffled", "apart"]

POINTWISE = frozenset({"prompt", "response", "rubric", "reference"})
PAIRWISE = frozenset({"prompt", "response_1", "response_2", "rubric", "reference"})


@dataclass(frozen=True)
class Wording:
    """The templates of a pass and what of a row they are shown; plain values, for workers.

    Attributes:
        pointwise, pairwise: text of the templates.
        names: their names, for messages.
        rubric: shown for every row, in the place of the row's own.
        show: which of the row's columns are shown; a template is given None for the others.
        orders: how two responses are shown.
    """

    pointwise: str
    pairwise: str
    names: tuple[str, str]
    rubric: str | None = None
    show: tuple[Shown, ...] = ("rubric", "reference")
    orders: Orders = "both"

    def orders_of(self, row: Row) -> tuple[str | None, ...]:
        """Orders in which a row is judged.

        Raises:
            ValueError: a number of responses that no template is for.
        """
        count = len(row["responses"] or ())
        if count == 1:
            return (None,)
        if count != 2:
            raise ValueError(f"found {count} responses, expected one or two")
        if self.orders == "shuffled":
            return ("ab" if xxhash.xxh3_64_intdigest(f"order {row['id']}".encode()) % 2 else "ba",)
        return {"both": ("ab", "ba"), "ab": ("ab",), "apart": ("a", "b")}[self.orders]

    def render(self, row: Row, order: str | None) -> str:
        """The judge's prompt for a row in an order."""
        texts = [response_text(response) for response in row["responses"]]
        given: Row = {
            "prompt": prompt_text(row["prompt"]),
            "rubric": self.rubric or self._shown(row, "rubric"),
            "reference": self._shown(row, "reference"),
        }
        if order in ("ab", "ba"):
            first, second = texts if order == "ab" else reversed(texts)
            given |= {"response_1": first, "response_2": second}
            return prompts.render_text(self.pairwise, where=self.names[1], **given)
        given["response"] = texts[1 if order == "b" else 0]
        return prompts.render_text(self.pointwise, where=self.names[0], **given)

    def _shown(self, row: Row, column: Shown) -> str | None:
        return row.get(column) if column in self.show else None


def wording(
    pointwise: str,
    pairwise: str,
    *,
    rubric: str | None = None,
    show: tuple[Shown, ...] = ("rubric", "reference"),
    orders: Orders = "both",
) -> Wording:
    """A wording from names of templates and a rubric's file."""
    text = None if rubric is None else read_rubric(rubric)
    sources = prompts.source(pointwise), prompts.source(pairwise)
    return Wording(*sources, (pointwise, pairwise), text, show, orders)


def is_pairwise(order: str | None) -> bool:
    """Whether a judgement in this order compares two responses."""
    return order in ("ab", "ba")


def in_rows_terms(value: float | None, order: str | None) -> float | None:
    """A verdict as written → in terms of the row: with the second shown first, 1 and 2 change."""
    return 3.0 - value if order == "ba" and value is not None else value


def fingerprint(text: str) -> str:
    """What names a rendered prompt (16 hex digits)."""
    return xxhash.xxh3_64_hexdigest(text.encode())


def read_rubric(file: str) -> str:
    """A rubric from a file: `.txt` as it stands, or `.yaml` / `.json` with criteria and scores.

    Example::

        criteria: Does the answer fit?
        scores: {1: Not at all., 2: Hardly., 3: Partly., 4: Mostly., 5: Wholly.}

    Raises:
        ValueError: another kind of file, or fields that are missing.
    """
    text = Path(file).read_text(encoding="utf-8")
    suffix = Path(file).suffix
    if suffix == ".txt":
        return text.strip()
    if suffix not in (".yaml", ".yml", ".json"):
        raise ValueError(f"rubric {file!r}: expected a .txt, .yaml or .json file")
    told = json.loads(text) if suffix == ".json" else yaml.safe_load(text)
    if not isinstance(told, dict) or "criteria" not in told or not told.get("scores"):
        found = ", ".join(map(str, told)) if isinstance(told, dict) else type(told).__name__
        raise ValueError(f"rubric {file!r}: found {found}, expected `criteria` and `scores`")
    return rubric_of(told["criteria"], {int(key): text for key, text in told["scores"].items()})
