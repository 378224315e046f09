"""Stage `curate`: judged inputs → preference pairs of judgements, by one of the rules by name.

    rows of judge stages ─ curation.py ─► {"prompt": [user "… Judge the response …"],
                                           "chosen":   [assistant "Kind 5, … [RESULT] 3"],
                                           "rejected": [assistant "Kind 2, … [RESULT] 1"], …}

One row in memory at a time. Both judgements of a pair answer the same prompt: with two orders, each
makes pairs of its own. An input that makes none is a reject with the rule's reason.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

from pydantic import Field, model_validator

from rayonale import storage
from rayonale.data import ids
from rayonale.data.left_out import reject
from rayonale.enrich import curation, judge_estimates
from rayonale.enrich.curation import NoPairs
from rayonale.enrich.judgement_examples import prompt_of
from rayonale.enrich.judgement_prompts import is_pairwise
from rayonale.records import PAIR, REJECT, Message, RejectKind
from rayonale.stages import Reads, Settings, Stage, StageContext, StageOutput, StageResult

Row = dict[str, Any]

_MARGINS = ("correct_answer", "majority", "meta_judge")


class CurateSettings(Settings):
    """Settings of `curate`.

    Attributes:
        rule: see `enrich/curation.py`.
        margin: least distance of the two scores (or ratings); of comparisons, whose verdicts are
            1 or 2, any distance will do. For the rules that compare numbers.
        cap: at most so many pairs of one input and order, drawn with `seed`; None keeps all.
        limit: at most so many inputs, the first in file order; None takes all.
    """

    rule: Literal[
        "correct_answer", "majority", "meta_judge", "rationale_judge", "preference_reversal"
    ] = "correct_answer"
    margin: float = Field(default=1.0, gt=0, le=4)
    cap: int | None = Field(default=None, ge=1)
    seed: int = 0
    limit: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _margin_is_used(self) -> CurateSettings:
        if self.rule not in _MARGINS and "margin" in self.model_fields_set:
            raise ValueError(f"margin: {self.rule} compares no scores; it is for {_MARGINS}")
        return self


def pairs_of(row: Row, settings: CurateSettings, naive: Row | None = None) -> list[Row]:
    """A row's preference pairs.

    Args:
        naive: the same input's naive judgements, for preference_reversal.

    Raises:
        NoPairs: no order of it makes any.
    """
    found: list[Row] = []
    reason = ""
    for order in dict.fromkeys(each["order"] for each in row["judgements"]):
        judged = [each for each in row["judgements"] if each["order"] == order]
        others = [each for each in naive["judgements"] if each["order"] == order] if naive else []
        try:
            pairs = _indices(row, judged, others, order, settings)
        except NoPairs as why:
            reason = reason or str(why)
            continue
        better = others if settings.rule == "preference_reversal" else judged
        texts = {(better[i]["text"].strip(), judged[j]["text"].strip()): (i, j) for i, j in pairs}
        distinct = [pair for (a, b), pair in texts.items() if a != b]
        kept = curation.capped(distinct, settings.cap, settings.seed, f"{row['id']}:{order}")
        found += [_pair(row, better[i], judged[j], (i, j), settings) for i, j in kept]
    if not found:
        raise NoPairs(reason or "none_wrong")
    return found


def _indices(
    row: Row, judged: list[Row], naive: list[Row], order: str | None, settings: CurateSettings
) -> curation.Pairs:
    label, margin = row.get("label"), settings.margin
    if is_pairwise(order) and settings.rule != "meta_judge":
        margin = min(margin, 0.5)  # verdicts are 1, 1.5 or 2: any other one is wrong
    if order in ("a", "b"):
        label = None  # the label compares two responses, and says nothing of one's score
    match settings.rule:
        case "correct_answer":
            return curation.correct_answer(judged, label, margin)
        case "majority":
            return curation.majority(judged, margin)
        case "meta_judge":
            return curation.meta_judge(judged, margin)
        case "rationale_judge":
            picks = {each["order"]: each for each in row["picks"] or ()}
            pick = picks.get(order) or {"best": None, "worst": None}
            return curation.rationale_judge(judged, pick["best"], pick["worst"])
        case "preference_reversal":
            return curation.preference_reversal(judged, naive, label)


def _pair(
    row: Row, chosen: Row, rejected: Row, at: tuple[int, int], settings: CurateSettings
) -> Row:
    order = rejected["order"]
    told = {
        "input": row["id"],
        "rule": settings.rule,
        "label": row.get("label"),
        "order": order,
        "chosen": at[0],
        "rejected": at[1],
    }
    return {
        **{name: row.get(name) for name in PAIR.names},
        "id": ids.key_of(f"{row['id']} {settings.rule} {order} {at[0]} {at[1]}").hex(),
        "prompt": [Message(role="user", content=prompt_of(row, order))],
        "chosen": [Message(role="assistant", content=chosen["text"].strip())],
        "rejected": [Message(role="assistant", content=rejected["text"].strip())],
        "score_chosen": chosen["verdict"],
        "score_rejected": rejected["verdict"],
        "confidence": None,
        "metadata": json.dumps(told),
    }


def run(context: StageContext, settings: CurateSettings) -> StageResult:
    """Make pairs of judgements.

    Raises:
        ValueError: a role or column that the rule needs is missing, or no pair is made.
    """
    read: list[StageOutput] = context.inputs["rows"]
    naive = _naive_rows(context, settings)
    _require_picks(context, settings)
    inputs = 0
    reasons: Counter[str] = Counter()
    of_input: Counter[int] = Counter()
    gaps: Counter[str] = Counter()

    def pairs() -> Iterator[Row]:
        """Pairs as they are made; inputs that make none go to `rejects` meanwhile."""
        nonlocal inputs
        for row in _inputs(read, settings.limit):
            inputs += 1
            try:
                found = pairs_of(row, settings, naive.get(row["id"]) if naive else None)
            except NoPairs as why:
                reasons[str(why)] += 1
                detail = f"{settings.rule}: verdicts {_told(row)}, label {row.get('label')}"
                rejects.write(dict(reject(row, RejectKind.FILTERED, str(why), detail)))
                continue
            of_input[len(found)] += 1
            for pair in found:
                gaps[f"{abs(pair['score_chosen'] - pair['score_rejected']):g}"] += 1
                yield pair

    where = storage.join(context.out, storage.REJECTS)
    storage.remove(where)
    with storage.ParquetWriter(where, REJECT) as rejects:
        written = storage.write_rows(storage.join(context.out, storage.ROWS), pairs(), PAIR)
    if not reasons:  # an empty folder could not be told from a missing one
        storage.write_rows(where, [], REJECT)
    if not written:
        raise ValueError(
            f"stages.{context.name}: rule {settings.rule} makes no pair of {inputs} inputs: "
            f"{json.dumps(reasons)}; more judgements of each, a higher temperature or a smaller "
            "margin help"
        )
    paired = sum(of_input.values())
    return StageResult(
        rows_in=inputs,
        rows_out=written,
        rejects={RejectKind.FILTERED.value: dict(reasons)} if reasons else {},
        metrics={
            "inputs_paired": paired,
            "inputs_paired_share": round(paired / max(1, inputs), 4),
            "pairs_per_input": round(written / max(1, paired), 3),
        },
        details={
            "curation": {
                "rule": settings.rule,
                "margin": settings.margin if settings.rule in _MARGINS else None,
                "inputs": inputs,
                "paired": paired,
                "pairs": written,
                "gaps": dict(sorted(gaps.items())),
                "reasons": dict(reasons),
            }
        },
    )


def _inputs(read: list[StageOutput], limit: int | None) -> Iterator[Row]:
    rows = (row for output in read for row in storage.read_rows(output.rows))
    return islice(rows, limit)


def _told(row: Row) -> str:
    return " ".join("–" if e["verdict"] is None else f"{e['verdict']:g}" for e in row["judgements"])


def _naive_rows(context: StageContext, settings: CurateSettings) -> dict[str, Row]:
    """Naive judgements by input; the one role that is held in memory."""
    output: StageOutput | None = context.inputs.get("naive")
    needed = settings.rule == "preference_reversal"
    if (output is not None) != needed:
        raise ValueError(
            f"stages.{context.name}.reads.naive: "
            + (
                "preference_reversal needs naive judgements (a judge stage with the template "
                "judge_naive)"
                if needed
                else f"rule {settings.rule} would ignore it"
            )
        )
    if output is None:
        return {}
    return {row["id"]: row for row in storage.read_rows(output.rows, ["id", "judgements"])}


def _require_picks(context: StageContext, settings: CurateSettings) -> None:
    for output in context.inputs["rows"]:
        names = storage.schema(output.rows).names
        if settings.rule == "rationale_judge" and "picks" not in names:
            raise ValueError(
                f"stages.{context.name}: rule rationale_judge reads the column picks (a "
                f"judge_judgements stage with ask: pick adds it); {output.rows} has "
                f"{', '.join(names)}"
            )


STAGE = Stage(
    kind="curate",
    settings=CurateSettings,
    run=run,
    reads={
        "rows": Reads("rows", ("id", "split", "judgements", "judge_prompts"), many=True),
        "naive": Reads("rows", ("id", "judgements"), optional=True),
    },
    adds=("prompt", "chosen", "rejected", "score_chosen", "score_rejected"),
    estimate=judge_estimates.curate,
)
