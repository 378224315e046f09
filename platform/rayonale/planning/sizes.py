"""Tokens of texts that are there, counted; of texts that are not yet, told by who knows.

With the model's tokenizer where the model is on this machine, else four characters a token, which
is about right for English and is told as assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rayonale import models
from rayonale.planning.flow import Flow, Row
from rayonale.records import Message

CHARS_PER_TOKEN = 4.0
TURN_TOKENS = 5  # what a chat template puts around a message; assumed
_COUNTED = 128  # rows of the sample whose tokens are counted


class Sizer:
    """Counts tokens as one model's tokenizer does.

    Attributes:
        assumed: whether the counts are four characters a token.
    """

    def __init__(self, model: str, chat_template: str | None = None) -> None:
        self._tokenizer: Any = None
        found = models.resolve(model)
        self.assumed = not Path(found).is_dir()
        if not self.assumed:
            from rayonale.data import tokens

            self._tokenizer = tokens.load_tokenizer(found, chat_template)

    def prompt(self, messages: list[Message]) -> float:
        """Tokens of a conversation up to the assistant's turn; a refused one counts nothing."""
        if self._tokenizer is None:
            return _assumed(messages) + TURN_TOKENS
        from rayonale.data import tokens

        try:
            return float(len(tokens.encode_prompt(self._tokenizer, messages)))
        except ValueError:
            return 0.0

    def response(self, prompt: list[Message], response: list[Message]) -> float:
        """Tokens of an answer, end of turn included."""
        if self._tokenizer is None:
            return _assumed(response)
        from rayonale.data import tokens

        try:
            return float(len(tokens.encode_response(self._tokenizer, prompt, response)))
        except ValueError:
            return 0.0

    def shared(
        self, prompt: list[Message], response: list[Message], longer: list[Message]
    ) -> float:
        """Tokens of prompt and response where a longer conversation begins with them, else 0."""
        if self._tokenizer is None:
            return self.prompt(prompt) + self.response(prompt, response)
        from rayonale.data import tokens

        try:
            first, then = tokens.encode_example(self._tokenizer, prompt, response)
            above = [*first, *then]
            begins = tokens.encode_prompt(self._tokenizer, longer)[: len(above)] == above
        except ValueError:
            return 0.0
        return float(len(above)) if begins else 0.0


def _assumed(messages: Sequence[Message]) -> float:
    return sum(len(m["content"]) / CHARS_PER_TOKEN + TURN_TOKENS for m in messages)


class Sizes:
    """Mean tokens of a flow's columns under a model; each is counted once."""

    def __init__(self) -> None:
        self._sizers: dict[tuple[str, str | None], Sizer] = {}
        self._known: dict[tuple[int, str, str | None], dict[str, float]] = {}
        self._kept: list[Flow] = []  # ids of flows are keys, so the flows must live

    def sizer(self, model: str, chat_template: str | None = None) -> Sizer:
        """The counter of a model."""
        key = (model, chat_template)
        if key not in self._sizers:
            self._sizers[key] = Sizer(*key)
        return self._sizers[key]

    def of(self, flow: Flow, model: str, chat_template: str | None = None) -> Mapping[str, float]:
        """Column → tokens of one of its texts; what is told of the flow goes before the sample."""
        key = (id(flow), model, chat_template)
        if key not in self._known:
            self._kept.append(flow)
            self._known[key] = {
                **counted(flow.sample[:_COUNTED], self.sizer(model, chat_template)),
                **flow.tokens,
            }
        return self._known[key]


_CONVERSATIONS = ("chosen", "rejected", "response", "mismatched")


def counted(rows: Sequence[Row], sizer: Sizer) -> dict[str, float]:
    """Mean tokens of the columns that rows have.

    `rationale` is of one rationale, `responses` of one response of a list.
    """
    found: dict[str, list[float]] = {}
    for row in rows:
        prompt = row.get("prompt")
        if not isinstance(prompt, list):
            continue
        found.setdefault("prompt", []).append(sizer.prompt(prompt))
        for name, texts in _texts_of(row):
            found.setdefault(name, []).extend(sizer.response(prompt, text) for text in texts)
    return {name: fmean(values) for name, values in found.items() if values}


def _texts_of(row: Row) -> list[tuple[str, list[list[Message]]]]:
    texts = [(name, [row[name]]) for name in _CONVERSATIONS if row.get(name)]
    if rationales := row.get("rationales"):
        texts.append(("rationale", [answer(each["text"]) for each in rationales]))
    if responses := row.get("responses"):
        listed = [r if isinstance(r, list) else answer(r or "") for r in responses]
        texts.append(("responses", listed))
    return texts


def answer(text: str) -> list[Message]:
    """A text as an assistant's turn."""
    return [Message(role="assistant", content=text)]


def rendered(
    flow: Flow,
    sizer: Sizer,
    known: Mapping[str, float],
    messages: Callable[[Row], list[list[Message]]],
    *,
    template: str,
    shown: Sequence[str],
) -> float:
    """Mean tokens of the prompts that a template makes of rows.

    Args:
        messages: a row's rendered conversations; the sample's rows are rendered.
        template: text of the template; with `shown`, what it puts in, it stands for them where
            there is no sample.
        shown: columns whose texts it shows.
    """
    lengths = [sizer.prompt(each) for row in flow.sample[:_COUNTED] for each in messages(row)]
    if lengths:
        return fmean(lengths)
    missing = [name for name in shown if name not in known]
    if missing:
        raise Unknown(f"tokens of {', '.join(missing)} are not known")
    return len(template) / CHARS_PER_TOKEN + TURN_TOKENS + sum(known[name] for name in shown)


def shared(
    flow: Flow,
    sizer: Sizer,
    known: Mapping[str, float],
    messages: Callable[[Row], list[list[Message]]],
) -> float:
    """Mean tokens of prompt and chosen response that go in once, not twice, where conversations
    that go on from them begin with their tokens: all but chosen's last.

    Args:
        messages: as in `rendered`; without a sample all are taken to begin so.
    """
    counts = [
        max(0.0, sizer.shared(row["prompt"], row["chosen"], each) - 1)
        for row in flow.sample[:_COUNTED]
        for each in messages(row)
    ]
    return fmean(counts) if counts else known["prompt"] + known["chosen"] - 1


class Unknown(ValueError):
    """A number that an estimate needs is neither there nor given; the message says which."""
