"""Judgements counted by kind, and why some cannot be read."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rayonale.enrich.judgement_prompts import is_pairwise
from rayonale.evaluate import verdicts

Row = dict[str, Any]


class Tally:
    """Judgements by kind, and why some cannot be read."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.tokens, self.last = 0, ""

    def see(self, judgements: list[Row]) -> None:
        """Count a row's judgements."""
        for each in judgements:
            kind = "pairwise" if is_pairwise(each["order"]) else "pointwise"
            key = each["reason"] or f"{each['verdict']:g}"
            self.counts.setdefault(kind, Counter())[key] += 1
            self.tokens += each["tokens"] or 0
            if each["reason"]:
                self.last = each["text"][-200:]

    @property
    def total(self) -> int:
        """All judgements."""
        return sum(count.total() for count in self.counts.values())

    @property
    def reasons(self) -> dict[str, int]:
        """Reason → unreadable judgements."""
        found: Counter[str] = Counter()
        for count in self.counts.values():
            found.update({key: n for key, n in count.items() if key in verdicts.REASONS})
        return dict(found)

    @property
    def unreadable_share(self) -> float:
        """Share of judgements without a verdict."""
        return sum(self.reasons.values()) / max(1, self.total)

    def metrics(self) -> dict[str, float]:
        """For MLflow and the manifest."""
        return {
            "judgements": self.total,
            "judgements_unreadable": sum(self.reasons.values()),
            "judgement_tokens_mean": round(self.tokens / max(1, self.total), 2),
            **{f"unreadable/{reason}": n for reason, n in self.reasons.items()},
        }

    def table(self) -> list[Row]:
        """One entry a kind: verdicts and reasons with their counts."""
        return [
            {
                "kind": kind,
                "judgements": count.total(),
                "unreadable": sum(n for key, n in count.items() if key in verdicts.REASONS),
                "verdicts": {k: n for k, n in sorted(count.items()) if k not in verdicts.REASONS},
                "reasons": {k: n for k, n in sorted(count.items()) if k in verdicts.REASONS},
            }
            for kind, count in sorted(self.counts.items())
        ]
