"""Watched rows: how likely rejected responses stay along training.

    rows (the role `watch`) ─ split, min_score, limit ─ tokenise ─► shards ─► mean log-probability
                                          before the first step and at each validation, by stage

Several stages can be watched: the same pairs with the plain prompt, with the best goal told, with
the response's own score told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayonale import storage
from rayonale.losses.sft import SFTSettings, nll_sum
from rayonale.losses.spec import Loss, Scores, Term
from rayonale.stages import StageContext, StageOutput
from rayonale.train import shards
from rayonale.train.examples import Encoding
from rayonale.train.settings import TrainSettings, Watch

RESPONSE = "rejected"
PREFIX = "watch/"


def _terms(scores: Scores, settings: SFTSettings) -> dict[str, Term]:
    return {"nll": Term(nll_sum(scores.logprob[RESPONSE]))}


# What a validation pass over watched rows computes: nothing but the log-probability.
LOSS = Loss("watch", SFTSettings, sequences=(RESPONSE,), terms=_terms)


def of_stage(
    context: StageContext, settings: TrainSettings, encoding: Encoding
) -> dict[str, list[str]]:
    """Shards of the rows that a training reads in the role `watch`; see `tokenise`.

    Raises:
        ValueError: `watched` without rows to watch.
    """
    read = context.inputs.get("watch") or []
    if settings.watched is not None and not read:
        raise ValueError(f"stages.{context.name}.watched: no rows are read in the role `watch`")
    work = storage.join(context.out, storage.WORK, "watched")
    return tokenise(read, settings.watched or Watch(), encoding, work)


def tokenise(
    outputs: Sequence[StageOutput], watch: Watch, encoding: Encoding, work: str
) -> dict[str, list[str]]:
    """Name of each stage → shards of its watched rows.

    Args:
        encoding: of the training rows, for the model, the template and the lengths.

    Raises:
        ValueError: a stage without a row that fits, or one that is read twice.
    """
    found: dict[str, list[str]] = {}
    for output in outputs:
        if output.name in found:
            raise ValueError(f"reads.watch: {output.name!r} is read twice")
        folder = storage.join(work, output.name)
        rows = storage.join(folder, storage.ROWS)
        number = _select(output.rows, watch, rows)
        if number == 0:
            raise ValueError(
                f"watch: no row of split {watch.split!r} with a score_rejected of at least "
                f"{watch.min_score} in {output.rows}"
            )
        own = Encoding(
            model=encoding.model, sequences=LOSS.sequences, chat_template=encoding.chat_template,
            max_length=encoding.max_length, max_prompt_length=encoding.max_prompt_length,
        )  # fmt: skip
        found[output.name] = shards.tokenise(rows, watch.split, None, own, folder)
    return found


def _select(rows: str, watch: Watch, out: str) -> int:
    """Write the rows that are watched; the same ones every time."""
    columns = ["id", "split", "prompt", RESPONSE]
    scored = [f"score_{RESPONSE}"] if watch.min_score is not None else []
    picked: list[dict[str, Any]] = []
    for row in storage.read_rows(rows, [*columns, *scored]):
        score = row.get(f"score_{RESPONSE}")
        low = watch.min_score is not None and (score is None or score < watch.min_score)
        if row["split"] == watch.split and not low:
            picked.append({name: row[name] for name in columns})
    picked.sort(key=lambda row: str(row["id"]))
    schema = storage.schema(rows)
    kept = schema.empty_table().select(columns).schema.remove_metadata()
    return storage.write_rows(out, picked[: watch.limit], kept)


def measured(means: Mapping[str, float], steps: int) -> dict[str, float]:
    """A measurement as an entry of the history has it: nats a response, after so many steps."""
    return {f"{PREFIX}{name}": value for name, value in means.items()} | {f"{PREFIX}steps": steps}
