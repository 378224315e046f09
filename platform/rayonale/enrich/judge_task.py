"""The pass of a judge over inputs: prompts in, judgements out.

row ─ Wording ─► a prompt an order ─ n seeds each ─► texts ─ parser ─► judgements
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rayonale.enrich.grades import last_object
from rayonale.enrich.judgement_prompts import (
    Wording,
    fingerprint,
    in_rows_terms,
    is_pairwise,
)
from rayonale.evaluate import verdict_layouts, verdicts
from rayonale.evaluate.soft_verdicts import expected_verdict
from rayonale.evaluate.verdict_layouts import Layout
from rayonale.generate.settings import Completion, Request, Sampling, row_seed
from rayonale.generate.stream import Rejection
from rayonale.records import JUDGEMENT, Message, RejectKind

Row = dict[str, Any]

# The judge's prompt in each order, as text of one user message: what its judgements answer.
JUDGE_PROMPTS = pa.list_(pa.struct([("order", pa.string()), ("text", pa.string())]))
ADDS = pa.schema([("judgements", pa.list_(JUDGEMENT)), ("judge_prompts", JUDGE_PROMPTS)])
# Most likely tokens asked for, where the expected score is wanted: what vLLM gives at most.
_TOP = 20


@dataclass(frozen=True)
class JudgeTask:
    """The pass over inputs; see `rayonale.generate.stream.Task`."""

    wording: Wording
    sampling: Sampling
    n: int
    seed: int
    scores: dict[str, float]
    comparisons: dict[str, float]
    layout: Layout = "result"
    expected: bool = False
    json_schema: dict[str, Any] | None = None
    adds: pa.Schema = ADDS

    def requests(self, row: Row) -> list[Request] | Rejection | None:
        try:
            orders = self.wording.orders_of(row)
        except ValueError as error:
            return Rejection(RejectKind.INVALID, "wrong_responses", f"responses: {error}")
        texts = {order: self.wording.render(row, order) for order in orders}
        return [
            Request(
                [Message(role="user", content=texts[order])], seed, _TOP if self.expected else 0
            )
            for order, seed in self._drawn(row, orders)
        ]

    def collect(self, row: Row, completions: list[Completion]) -> Row | Rejection:
        orders = self.wording.orders_of(row)
        texts = {order: self.wording.render(row, order) for order in orders}
        judged = [
            self.judgement(each, texts[order], order, seed)
            for (order, seed), each in zip(self._drawn(row, orders), completions, strict=True)
        ]
        shown = [{"order": order, "text": text} for order, text in texts.items()]
        return {"judgements": judged, "judge_prompts": shown}

    def _drawn(
        self, row: Row, orders: tuple[str | None, ...]
    ) -> list[tuple[str | None, int | None]]:
        """Order and seed of each judgement: all of the first order, then those of the next."""
        drawn = self.sampling.temperature > 0
        return [
            (order, row_seed(self.seed, f"{row['id']}:{order}", i) if drawn else None)
            for order in orders
            for i in range(self.n)
        ]

    def judgement(
        self, completion: Completion, prompt: str, order: str | None, seed: int | None
    ) -> Row:
        """What a judge wrote, read: a row of `records.JUDGEMENT`."""
        choices = self.comparisons if is_pairwise(order) else self.scores
        ended = completion.finish_reason
        if self.json_schema:
            found = read_structured(completion.text, choices, finish_reason=ended)
        else:
            found = verdict_layouts.read(
                completion.text, choices, self.layout, prompt=prompt, finish_reason=ended
            )
        expected = None
        if self.expected and found.value is not None:
            expected = expected_verdict(completion.steps, choices)
        return {
            "text": completion.text,
            "rationale": found.rationale,
            "verdict": in_rows_terms(found.value, order),
            "expected": in_rows_terms(expected, order),
            "status": found.status,
            "reason": found.reason,
            "order": order,
            "seed": seed,
            "tokens": completion.tokens,
            "finish_reason": completion.finish_reason,
            "prompt_fingerprint": fingerprint(prompt),
            "rating": None,
        }


def read_structured(
    text: str, choices: Mapping[str, float], *, finish_reason: str | None = None
) -> verdicts.Verdict:
    """A judgement that was written as a JSON object; unreadable where it is not whole."""
    found = last_object(text)
    if found is None:
        why = "cut_off" if finish_reason == "length" else "no_verdict" if text.strip() else "empty"
        return verdicts.Verdict(None, text.strip(), why)
    label = str(found.get("verdict"))
    rationale = str(found.get("rationale") or "")
    if label not in choices:
        return verdicts.Verdict(None, rationale, "not_a_choice")
    return verdicts.Verdict(choices[label], rationale)
