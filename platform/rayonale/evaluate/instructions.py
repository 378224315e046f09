"""The `instructions` stage: instructions with a baseline's outputs, to sample and compare.

{"instruction", "dataset"?, "output"?, "generator"?}      a set or a model's outputs, as
{"instruction", "dataset"?, "output_1", "generator_1"}    alpaca_eval writes them
    ─► rows: id, split, prompt (for `samples`), responses (the baseline, for `win_rates`),
             index, dataset, instruction (for `alpaca_eval`)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import xxhash
from pydantic import Field

from rayonale import storage
from rayonale.evaluate.summary import reject
from rayonale.lineage import fingerprints
from rayonale.records import MESSAGES, REJECT, RejectKind
from rayonale.stages import Settings, Stage, StageContext, StageResult

Row = dict[str, Any]

ROWS = pa.schema(
    [
        ("id", pa.string()),  # hash of the instruction
        ("split", pa.string()),  # test
        ("index", pa.int64()),  # place in the file, or what the file says
        ("dataset", pa.string()),
        ("instruction", pa.string()),
        ("prompt", MESSAGES),
        ("responses", pa.list_(pa.string())),  # the baseline's output; empty without one
    ]
)
# Fields of the two layouts: output, who wrote it.
_OUTPUTS = (("output_1", "generator_1"), ("output", "generator"))


class InstructionSettings(Settings):
    """Settings of the `instructions` stage.

    Attributes:
        file: the instructions, `.json` (a list) or `.jsonl`; it may hold the baseline's outputs.
        outputs: file of the baseline's outputs, where `file` has none; matched by instruction.
        limit: at most so many, the first in the file.
    """

    file: str = Field(min_length=1)
    outputs: str | None = None
    limit: int | None = Field(None, ge=1)


def run(context: StageContext, settings: InstructionSettings) -> StageResult:
    """Read the set.

    Raises:
        ValueError: a row without an instruction, outputs of several models or in both files.
    """
    raw = list(read(settings.file))[: settings.limit]
    given = {row["instruction"]: row for _, row in read(settings.outputs or settings.file)}
    if settings.outputs is not None and any(_output(row) for _, row in raw):
        raise ValueError(f"outputs: {settings.file} holds outputs already; expected one of the two")
    named = {_generator(row) for row in given.values() if _output(row)}
    if len(named) > 1:
        raise ValueError(
            f"{settings.outputs or settings.file}: outputs of {', '.join(sorted(named))}; expected "
            "those of one baseline"
        )
    rows, rejects, seen = [], [], set[str]()
    for place, (where, told) in enumerate(raw):
        row = _row(told, place, given.get(told["instruction"], {}))
        reason = None
        if row["id"] in seen:
            reason, detail = "duplicate_instruction", f"{where}: the same instruction again"
        elif named and not row["responses"]:
            reason, detail = "no_output", f"{where}: no output of {min(named)!r}"
        seen.add(row["id"])
        if reason is None:
            rows.append(row)
        else:
            rejects.append(reject(row, RejectKind.FILTERED, reason, detail))
    storage.write_rows(storage.join(context.out, storage.ROWS), iter(rows), ROWS)
    storage.write_rows(storage.join(context.out, storage.REJECTS), iter(rejects), REJECT)
    counts: dict[str, int] = {}
    for one in rejects:
        counts[one["reason"]] = counts.get(one["reason"], 0) + 1
    return StageResult(
        rows_in=len(raw),
        rows_out=len(rows),
        rejects={"filtered": counts} if counts else {},
        details={"policy": min(named)} if named else {},
        raw_inputs=[
            {"uri": uri, **fingerprints.of_file(uri)}
            for uri in (settings.file, settings.outputs)
            if uri
        ],
    )


def read(uri: str) -> Iterator[tuple[str, Row]]:
    """(where, row) of a file of instructions or outputs.

    Raises:
        ValueError: not JSON, or a row without an instruction.
    """
    fs, path = storage.filesystem(uri)
    text = fs.cat_file(path).decode()
    try:
        if uri.endswith(".jsonl"):
            lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
            found = [(f"{uri}:{number}", json.loads(line)) for number, line in lines]
        else:
            found = [(f"{uri}[{number}]", row) for number, row in enumerate(json.loads(text))]
    except json.JSONDecodeError as error:
        raise ValueError(f"{uri}: not JSON ({error}); expected .json or .jsonl") from error
    for where, row in found:
        if not isinstance(row, dict) or not isinstance(row.get("instruction"), str):
            raise ValueError(f"{where}: no instruction; found {str(row)[:120]}")
        yield where, row


def _output(row: Row) -> str | None:
    return next((row[output] for output, _ in _OUTPUTS if isinstance(row.get(output), str)), None)


def _generator(row: Row) -> str:
    return str(next((row[name] for _, name in _OUTPUTS if row.get(name)), "baseline"))


def _row(told: Row, place: int, given: Row) -> Row:
    output = _output(given)
    return {
        "id": xxhash.xxh3_128_hexdigest(told["instruction"].encode()),
        "split": "test",
        "index": int(told.get("index", place)),
        "dataset": told.get("dataset"),
        "instruction": told["instruction"],
        "prompt": [{"role": "user", "content": told["instruction"]}],
        "responses": [] if output is None else [output],
    }


def _external(settings: InstructionSettings) -> dict[str, str]:
    named = (settings.file, settings.outputs)
    return {f"file:{uri}": fingerprints.of_file(uri)["sha256"] for uri in named if uri}


STAGE = Stage(
    kind="instructions",
    settings=InstructionSettings,
    run=run,
    adds=tuple(ROWS.names),
    external_inputs=_external,
)
