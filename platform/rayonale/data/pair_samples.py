"""Stage `pair_samples`: scored samples of a policy as preference pairs (on-policy data).

    prompt, responses [s0 … s4], reward_responses [7.0, 3.5, 9.0, 3.5, 6.0]
        → chosen s2 (9.0) ≻ rejected s1 (3.5), and the whole list: responses, scores

Texts that are drawn twice are one response. Of equal scores the first one counts. The prompt, the
id, the split and the origin are those of the row that was sampled; what the row said of its own two
responses (scores, `<name>_chosen` and `<name>_rejected` of the metadata) goes, as they go.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from rayonale import storage
from rayonale.data import estimates
from rayonale.data.left_out import LeftOut, counts, reject
from rayonale.records import MESSAGES, PAIR, REJECT, Message, RejectKind
from rayonale.stages import Reads, Settings, Stage, StageContext, StageResult

Row = dict[str, Any]

ADDS = pa.schema([("responses", pa.list_(MESSAGES)), ("scores", pa.list_(pa.float64()))])


class PairSamplesSettings(Settings):
    """Settings of `pair_samples`.

    Attributes:
        reward: prefix of the column with the scores, `<reward>_responses`.
        rejected: the worst response, or a random one that has a lower score than the best.
        min_gap: smallest difference of the two scores, in the scorer's units.
        length_ratio: the longer of the two responses has at most this many times the tokens of
            the shorter; of the pairs that have, the one with the largest gap is taken.
        drop_cut_off: leave out responses that ended at the token limit.
        seed: of the random choice; a row's choice depends on it and on the row's id alone.
    """

    reward: str = "reward"
    rejected: Literal["worst", "random"] = "worst"
    min_gap: float = Field(default=0.0, ge=0)
    length_ratio: float | None = Field(default=None, ge=1)
    drop_cut_off: bool = False
    seed: int = 0

    @model_validator(mode="after")
    def _choices_fit(self) -> PairSamplesSettings:
        problems = []
        if self.rejected == "random" and self.length_ratio is not None:
            problems.append("length_ratio: takes the largest gap; expected rejected: worst")
        if self.rejected == "worst" and "seed" in self.model_fields_set:
            problems.append("seed: ignored, the worst response is not drawn")
        if problems:
            raise ValueError("; ".join(problems))
        return self


@dataclass(frozen=True)
class Sample:
    """One response: its text, its score, its length in tokens."""

    text: str
    score: float
    tokens: int


def samples_of(row: Row, settings: PairSamplesSettings) -> list[Sample]:
    """The different responses of a row, in the order in which they were drawn.

    Raises:
        LeftOut: scores that are missing or do not fit the list.
    """
    texts, scores = row["responses"], row[f"{settings.reward}_responses"]
    if scores is None or len(scores) != len(texts):
        raise LeftOut(RejectKind.INVALID, "no_scores", f"scores are {scores} of {len(texts)}")
    if any(score is None or not math.isfinite(score) for score in scores):
        raise LeftOut(RejectKind.INVALID, "no_scores", f"scores are {scores}")
    tokens = row.get("response_tokens") or [0] * len(texts)
    ends = row.get("finish_reasons") or [None] * len(texts)
    found: dict[str, Sample] = {}
    for text, score, length, end in zip(texts, scores, tokens, ends, strict=True):
        if settings.drop_cut_off and end == "length":
            continue
        found.setdefault(_text(text).strip(), Sample(_text(text), score, length))
    return list(found.values())


def _text(response: Any) -> str:
    return response if isinstance(response, str) else str(response[-1]["content"])


def pick(samples: Sequence[Sample], settings: PairSamplesSettings, key: str) -> tuple[int, int]:
    """Numbers of the chosen and of the rejected response.

    Args:
        key: the row's id, for the random choice.

    Raises:
        LeftOut: no two responses fit.
    """
    if len(samples) < 2:
        why = f"{len(samples)} different response(s), a pair needs two"
        raise LeftOut(RejectKind.FILTERED, "fewer_than_two_responses", why)
    scores = [sample.score for sample in samples]
    if max(scores) == min(scores):
        raise LeftOut(RejectKind.FILTERED, "equal_scores", f"all scores are {scores[0]:g}")
    best, worst = scores.index(max(scores)), scores.index(min(scores))
    if settings.rejected == "random":
        lower = [at for at, score in enumerate(scores) if score < scores[best]]
        worst = random.Random(f"{settings.seed} {key}").choice(lower)
    elif settings.length_ratio is not None:
        best, worst = _of_like_length(samples, settings.length_ratio)
    gap = scores[best] - scores[worst]
    if gap < settings.min_gap:
        why = f"a gap of {gap:g}, expected at least {settings.min_gap:g}"
        raise LeftOut(RejectKind.FILTERED, "small_gap", why)
    return best, worst


def _of_like_length(samples: Sequence[Sample], ratio: float) -> tuple[int, int]:
    """The two with the largest gap among those of like length; the first two of equals."""
    best: tuple[float, int, int] | None = None
    for a, one in enumerate(samples):
        for b, other in enumerate(samples):
            short, long = sorted((one.tokens, other.tokens))
            gap = one.score - other.score
            if gap > 0 and long <= ratio * short and (best is None or gap > best[0]):
                best = (gap, a, b)
    if best is None:
        why = f"no two different scores within {ratio:g} times the length"
        raise LeftOut(RejectKind.FILTERED, "no_like_length", why)
    return best[1], best[2]


def pair_of(row: Row, settings: PairSamplesSettings) -> Row:
    """The pair of a row, with its list.

    Raises:
        LeftOut: it has none.
    """
    samples = samples_of(row, settings)
    best, worst = pick(samples, settings, row["id"])
    messages = [[Message(role="assistant", content=sample.text)] for sample in samples]
    told = json.loads(row.get("metadata") or "{}")
    kept = {n: v for n, v in told.items() if not n.endswith(("_chosen", "_rejected"))}
    return {
        **{name: row.get(name) for name in PAIR.names},
        "chosen": messages[best],
        "rejected": messages[worst],
        "score_chosen": samples[best].score,
        "score_rejected": samples[worst].score,
        "confidence": None,
        "metadata": json.dumps(kept, ensure_ascii=False),
        "responses": messages,
        "scores": [sample.score for sample in samples],
    }


def run(context: StageContext, settings: PairSamplesSettings) -> StageResult:
    """Make a pair of every row that has one.

    Raises:
        ValueError: samples without scores.
    """
    names = storage.schema(context.rows()).names
    needed = [f"{settings.reward}_responses"]
    needed += ["response_tokens"] if settings.length_ratio is not None else []
    needed += ["finish_reasons"] if settings.drop_cut_off else []
    if missing := [name for name in needed if name not in names]:
        raise ValueError(
            f"stages.{context.name}: no column {', '.join(missing)}; found: {', '.join(names)}. A "
            "score stage adds scores to samples"
        )
    rejects: list[Any] = []
    sums = {"read": 0, "drawn": 0, "different": 0}
    gaps: list[float] = []

    def rows() -> Iterator[Row]:
        for row in storage.read_rows(context.rows()):
            sums["read"] += 1
            try:
                pair = pair_of(row, settings)
            except LeftOut as left_out:
                rejects.append(reject(row, left_out.kind, left_out.reason, str(left_out)))
                continue
            sums["drawn"] += len(row["responses"])
            sums["different"] += len(pair["responses"])
            gaps.append(pair["score_chosen"] - pair["score_rejected"])
            yield pair

    schema = pa.schema([*PAIR, *ADDS])
    count = storage.write_rows(storage.join(context.out, storage.ROWS), rows(), schema)
    storage.write_rows(storage.join(context.out, storage.REJECTS), iter(rejects), REJECT)
    metrics = {
        "responses_drawn": float(sums["drawn"]),
        "responses_different": float(sums["different"]),
        "score_gap_mean": sum(gaps) / len(gaps) if gaps else 0.0,
    }
    return StageResult(
        rows_in=sums["read"], rows_out=count, rejects=counts(rejects), metrics=metrics
    )


STAGE = Stage(
    kind="pair_samples",
    settings=PairSamplesSettings,
    run=run,
    reads={"rows": Reads("rows", columns=("id", "split", "prompt", "responses"))},
    adds=(*PAIR.names, *ADDS.names),
    estimate=estimates.pair_samples,
)
