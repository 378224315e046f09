"""Reading fields of raw records: each reader returns a typed value or raises `BadRow`.

Formats are written with these, so that every format tells the same things in the same words:
the field, what was found, what was expected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rayonale.records import Message, RejectKind

ROLE_NAMES = {  # spellings in the wild → ours
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}


class BadRow(Exception):
    """A row that cannot go on; becomes a reject.

    Attributes:
        reason: code, snake_case, from a small set.
        detail: field, found, expected.
        kind: invalid, filtered by a rule, or left out by a limit.
    """

    def __init__(self, reason: str, detail: str, kind: RejectKind = RejectKind.INVALID) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.kind = reason, detail, kind


def shown(value: Any, limit: int = 60) -> str:
    """A value for a message: its type and its beginning."""
    if value is None:
        return "null"
    try:
        text = repr(value[: limit + 1] if isinstance(value, str | list) else value)
    except (RecursionError, ValueError):  # nested too deep, a huge number
        text = "…"
    cut = text if len(text) <= limit else f"{text[:limit]}…"
    return f"{_type_name(value)} {cut}"


def _type_name(value: Any) -> str:
    names = {
        dict: "object",
        list: "list",
        str: "text",
        bool: "boolean",
        int: "number",
        float: "number",
    }
    return names.get(type(value), type(value).__name__)


def required(raw: Mapping[str, Any], key: str, expected: str) -> Any:
    """Value of a field that has to be there and not null."""
    value = raw.get(key)
    if value is None:
        found = "null" if key in raw else f"only {', '.join(map(str, list(raw)[:12])) or 'nothing'}"
        raise BadRow("missing_field", f"{key}: found {found}, expected {expected}")
    return value


def text(raw: Mapping[str, Any], key: str) -> str:
    """A field of text that is more than white space."""
    value = required(raw, key, "text")
    if not isinstance(value, str):
        raise BadRow("wrong_type", f"{key}: found {shown(value)}, expected text")
    if not value or value.isspace():
        raise BadRow("empty_field", f"{key}: found empty text")
    return value


def optional_text(raw: Mapping[str, Any], key: str) -> str | None:
    """A field of text that may be absent, null or blank (all give None)."""
    value = raw.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadRow("wrong_type", f"{key}: found {shown(value)}, expected text or null")
    return None if not value or value.isspace() else value


def name(raw: Mapping[str, Any], key: str) -> str | None:
    """A field that names something (an annotator): text or a whole number; may be absent."""
    value = raw.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return str(value)
        except ValueError as error:  # thousands of digits
            raise BadRow("wrong_type", f"{key}: found a huge number, expected a name") from error
    return optional_text(raw, key)


def number(raw: Mapping[str, Any], key: str) -> float | None:
    """A numeric field that may be absent or null; never NaN or infinite."""
    value = raw.get(key)
    return None if value is None else finite(value, key)


def finite(value: Any, key: str) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRow("wrong_type", f"{key}: found {shown(value)}, expected a number")
    try:
        as_float = float(value)
    except OverflowError:
        as_float = math.inf
    if not math.isfinite(as_float):
        raise BadRow("non_finite_score", f"{key}: found {as_float}, expected a finite number")
    return as_float


def truth(raw: Mapping[str, Any], key: str) -> bool:
    """A boolean field (0 and 1 are accepted)."""
    value = required(raw, key, "true or false")
    if value is True or value is False:
        return bool(value)
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    raise BadRow("wrong_type", f"{key}: found {shown(value)}, expected true or false")


def record(raw: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A field that is an object."""
    value = required(raw, key, "an object")
    if not isinstance(value, dict):
        raise BadRow("wrong_type", f"{key}: found {shown(value)}, expected an object")
    return value


def items(raw: Mapping[str, Any], key: str, count: int | None = None) -> list[Any]:
    """A field that is a list, of `count` items if given."""
    value = required(raw, key, "a list")
    if not isinstance(value, list):
        raise BadRow("wrong_type", f"{key}: found {shown(value)}, expected a list")
    if count is not None and len(value) != count:
        raise BadRow("wrong_type", f"{key}: found {len(value)} items, expected {count}")
    return value


def messages(
    raw: Mapping[str, Any], key: str, role: str = "role", content: str = "content"
) -> list[Message]:
    """A field that is a list of chat messages; roles are spelled our way, contents kept."""
    found = items(raw, key)
    if not found:
        raise BadRow("empty_field", f"{key}: found no messages")
    return [message(item, f"{key}[{place}]", role, content) for place, item in enumerate(found)]


def message(value: Any, where: str, role: str = "role", content: str = "content") -> Message:
    """One chat message, `{"role": …, "content": …}` or with the names given."""
    if not isinstance(value, dict):
        raise BadRow("wrong_type", f"{where}: found {shown(value)}, expected a message")
    spelled, said = value.get(role), value.get(content)
    if spelled is None or said is None:
        lacking = role if spelled is None else content
        raise BadRow("missing_field", f"{where}.{lacking}: found {list(value)[:6]}")
    ours = ROLE_NAMES.get(spelled) if isinstance(spelled, str) else None
    if ours is None:
        raise BadRow(
            "wrong_roles",
            f"{where}.{role}: found {shown(spelled)}, expected system, user or assistant",
        )
    if not isinstance(said, str):
        raise BadRow("wrong_type", f"{where}.{content}: found {shown(said)}, expected text")
    return {"role": ours, "content": said}


def user(content: str) -> Message:
    """A user message."""
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    """An assistant message."""
    return {"role": "assistant", "content": content}


def with_system(system: str | None, prompt: list[Message]) -> list[Message]:
    """The prompt with a system message before it, if there is one."""
    return [{"role": "system", "content": system}, *prompt] if system else prompt


def renamed(raw: dict[str, Any], fields: Mapping[str, str]) -> dict[str, Any]:
    """The record with fields renamed (ours ← the source's).

    A field that already has one of our names and is not meant is kept as `original_<name>`.
    """
    if not fields:
        return raw
    ours = {theirs: name for name, theirs in fields.items()}
    return {
        ours.get(key, f"original_{key}" if key in fields else key): value
        for key, value in raw.items()
    }


def rest(raw: Mapping[str, Any], *used: str) -> dict[str, Any]:
    """What a format did not convert: kept as the row's metadata, so that nothing is lost."""
    return {key: value for key, value in raw.items() if key not in used}


def scores(raw: Mapping[str, Any]) -> dict[str, float | None]:
    """`score_chosen` and `score_rejected`, at the top or in an object `metadata`; may be absent."""
    nested = raw.get("metadata")
    found: dict[str, float | None] = {}
    for key in ("score_chosen", "score_rejected"):
        value = number(raw, key)
        if value is None and isinstance(nested, dict):
            value = number(nested, key)
        found[key] = value
    return found
