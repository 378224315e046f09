"""From one raw record to one row: the format, the checks, the keys."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from rayonale.data import checks, formats, ids, reading, sources, splits, tokens
from rayonale.data.fields import BadRow, name, renamed
from rayonale.records import ROW_TYPES

KEY, PROMPT_KEY, OWN_KEY = "_key", "_prompt_key", "_own_key"  # hidden columns, 16 bytes each
LATER = ("id", "occurrence")  # columns that output.py adds
_RAW_CHARS = 20_000  # of a raw record kept in a reject


@dataclass(frozen=True)
class Conversion:
    """How the records of one source become rows (the same for all its blocks).

    Attributes:
        number: of the source, in settings order.
        fields: our field name → the source's.
        id_field, annotator_field: raw fields, see `ingest.Source`.
        split: fixed split of the whole source.
        tokenizer: model folder and chat template, for limits in tokens.
    """

    number: int
    format: str
    fields: dict[str, str]
    hub: sources.Hub
    id_field: str | None
    annotator_field: str | None
    split: str | None
    splits: splits.Splits
    limits: checks.Limits
    drop_equal_scores: bool
    max_line_bytes: int
    tokenizer: tuple[str, str | None] | None


class Converter:
    """Raw record → row, with everything that follows from the record alone."""

    def __init__(self, conversion: Conversion, layout: formats.Format) -> None:
        self._conversion, self._layout = conversion, layout
        self._empty = dict.fromkeys(ROW_TYPES[layout.row_type].names)
        self._tokenizer: Any = None
        if conversion.tokenizer is not None and conversion.limits.by_tokens:
            self._tokenizer = tokens.load_tokenizer(*conversion.tokenizer)

    def row(self, raw: Any, source: str, line: int) -> tuple[dict[str, Any], int]:
        """Columns of the row, hidden ones included, and its size in characters.

        Raises:
            BadRow: for whatever is wrong with the record.
        """
        if not isinstance(raw, dict):
            raise BadRow("wrong_type", f"found a JSON {type(raw).__name__}, expected an object")
        conversion, kind = self._conversion, self._layout.row_type
        raw = renamed(raw, conversion.fields)
        row = self._empty | self._layout.convert(raw)
        if conversion.annotator_field is not None:
            row["annotator"] = name(raw, conversion.annotator_field)
        try:
            metadata = _as_json(row["metadata"])
            row[KEY] = ids.content_key(row, kind)
        except UnicodeEncodeError as error:
            raise BadRow(
                "not_utf8",
                "found a lone surrogate (an escape such as \\ud800), "
                "expected text that UTF-8 can hold",
            ) from error
        checks.check_row(row, kind)
        if conversion.drop_equal_scores:
            checks.check_scores(row)
        self._check_sizes(row, kind)
        prompt_key = splits.prompt_key(row["prompt"], conversion.splits)
        row.update(
            source=source,
            line=line,
            format=self._layout.name,
            metadata=metadata,
            split=conversion.split or splits.split_of(prompt_key, conversion.splits),
        )
        row[PROMPT_KEY] = prompt_key
        row[OWN_KEY] = self._own_key(raw)
        size = len(metadata) + sum(len(message["content"]) for message in row["prompt"])
        return row, size + sum(
            len(message["content"])
            for _, response in checks.responses_of(row, kind)
            for message in response
        )

    def _check_sizes(self, row: dict[str, Any], kind: str) -> None:
        limits = self._conversion.limits
        checks.check_chars(row, kind, limits)
        if self._tokenizer is None:
            return
        try:
            checks.check_tokens(
                row,
                kind,
                limits,
                lambda prompt: tokens.encode_prompt(self._tokenizer, prompt),
                lambda prompt, response: tokens.encode_response(self._tokenizer, prompt, response),
            )
        except ValueError as error:  # the chat template refuses the conversation
            raise BadRow("refused_by_template", str(error)) from error

    def _own_key(self, raw: dict[str, Any]) -> bytes | None:
        field_name = self._conversion.id_field
        if field_name is None:
            return None
        own = name(raw, field_name)
        if own is None:
            raise BadRow("missing_field", f"{field_name}: found none, expected the row's id")
        return ids.key_of(f"{self._conversion.number} {own}")


def _as_json(metadata: dict[str, Any]) -> str:
    try:
        return to_json(metadata, inf_nan_mode="strings").decode()
    except (ValueError, RecursionError):
        # Bytes, huge numbers, deep nesting: kept as Python writes them.
        text = json.dumps(
            {str(key): _printable(value) for key, value in metadata.items()}, ensure_ascii=False
        )
        text.encode("utf-8")
        return text


def _printable(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
        return value
    except (ValueError, TypeError, RecursionError):
        try:
            return repr(value)
        except (ValueError, RecursionError):
            return f"unprintable {type(value).__name__}"


def as_reject(bad: BadRow, source: str, record: reading.Record) -> dict[str, Any]:
    """The reject of a bad record; `detail` begins with file:line."""
    text = record.raw if record.problem is not None else _raw_text(record.value)
    if len(text) > _RAW_CHARS:
        text = f"{text[:_RAW_CHARS]}… ({len(text)} characters)"
    detail = f"{source}:{record.line}: {bad.detail}"
    return {
        "id": None,
        "kind": str(bad.kind),
        "reason": bad.reason,
        "detail": _encodable(detail),
        "source": source,
        "line": record.line,
        "row": _encodable(text),
    }


def _raw_text(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, TypeError, RecursionError):
        return str(_printable(value))


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
