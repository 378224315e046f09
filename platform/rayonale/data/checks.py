"""Checks of converted rows: what is wrong becomes a `BadRow` with a reason and what was found.

| reason               | kind     | meaning                                                    |
|----------------------|----------|------------------------------------------------------------|
| unparsable_line      | invalid  | not JSON (sources.py)                                      |
| not_utf8             | invalid  | bytes or escapes that are not UTF-8 text                   |
| line_too_long        | limit    | a line over the byte limit, not read (lines.py)            |
| missing_field        | invalid  | a field is absent or null                                  |
| empty_field          | invalid  | a field, prompt or response is blank                       |
| wrong_type           | invalid  | a field is of another type                                 |
| wrong_roles          | invalid  | turns do not alternate, or begin or end with the wrong role |
| prompts_differ       | invalid  | chosen and rejected do not answer the same prompt          |
| unknown_choice       | invalid  | the label that says which one is preferred is not one      |
| lists_differ         | invalid  | not one score for each response of a list                  |
| chosen_equals_rejected | invalid | nothing is preferred                                      |
| non_finite_score     | invalid  | NaN, infinite                                              |
| refused_by_template  | invalid  | the chat template does not take the conversation           |
| duplicate_id         | invalid  | the source's own id (setting `id_field`) came before       |
| equal_scores         | filtered | a tie (always where the scores are the label; else by rule) |
| over_long            | limit    | more characters or tokens than allowed                     |
| mixture_share        | limit    | beyond its source's share of the mixture (mixing.py)       |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rayonale.data.fields import BadRow
from rayonale.records import Message, RejectKind

_RESPONSES = {
    "pair": ("chosen", "rejected"),
    "labelled": ("response",),
}


@dataclass(frozen=True)
class Limits:
    """Sizes above which a row is left out; None is no limit. Characters are code points."""

    max_prompt_chars: int | None = None
    max_response_chars: int | None = None
    max_prompt_tokens: int | None = None
    max_tokens: int | None = None

    @property
    def by_tokens(self) -> bool:
        """Whether a tokenizer is needed."""
        return self.max_prompt_tokens is not None or self.max_tokens is not None


def responses_of(row: dict[str, Any], row_type: str) -> list[tuple[str, list[Message]]]:
    """The named responses of a row of any type."""
    if row_type in _RESPONSES:
        return [(key, row[key]) for key in _RESPONSES[row_type]]
    return [(f"responses[{i}]", response) for i, response in enumerate(row["responses"])]


def check_row(row: dict[str, Any], row_type: str) -> None:
    """Raise `BadRow` where a converted row breaks a rule of its row type."""
    check_prompt(row["prompt"])
    for key, response in responses_of(row, row_type):
        check_response(response, key)
    if row_type == "pair":
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        if chosen == rejected or chosen.strip() == rejected.strip():
            raise BadRow(
                "chosen_equals_rejected", f"chosen, rejected: both are {chosen.strip()[:60]!r}"
            )


def check_prompt(prompt: list[Message]) -> None:
    """At most one system message, first; then user and assistant in turn; the user last."""
    last = ""
    for place, message in enumerate(prompt):
        role, content = message["role"], message["content"]
        if not content or content.isspace():
            raise BadRow("empty_field", f"prompt[{place}]: the {role}'s message is empty")
        if role == "system":
            wrong = place > 0
        elif role == "user":
            wrong = last == "user"
        else:
            wrong = last != "user"
        if wrong:
            _wrong_roles(prompt)
        last = role
    if last != "user":
        _wrong_roles(prompt)


def _wrong_roles(prompt: list[Message]) -> None:
    found = ", ".join(message["role"] for message in prompt) or "no messages"
    raise BadRow(
        "wrong_roles",
        f"prompt: found {found[:200]}; expected user and assistant in turn (a system message may "
        "come first), the user last",
    )


def check_response(response: list[Message], key: str) -> None:
    """One assistant message with text."""
    if len(response) != 1 or response[0]["role"] != "assistant":
        found = ", ".join(message["role"] for message in response) or "no messages"
        raise BadRow("wrong_roles", f"{key}: found {found[:200]}; expected one assistant message")
    content = response[0]["content"]
    if not content or content.isspace():
        raise BadRow("empty_field", f"{key}: the response is empty")


def check_scores(row: dict[str, Any]) -> None:
    """Rule `drop_equal_scores`: a pair with equal scores is filtered."""
    score = row.get("score_chosen")
    if score is not None and score == row.get("score_rejected"):
        raise BadRow(
            "equal_scores", f"score_chosen = score_rejected = {score}", RejectKind.FILTERED
        )


def check_chars(row: dict[str, Any], row_type: str, limits: Limits) -> None:
    """Limits in characters."""
    if limits.max_prompt_chars is not None:
        found = sum(len(message["content"]) for message in row["prompt"])
        if found > limits.max_prompt_chars:
            _over_long("prompt", f"{found} characters", limits.max_prompt_chars)
    if limits.max_response_chars is not None:
        for key, response in responses_of(row, row_type):
            found = len(response[0]["content"])
            if found > limits.max_response_chars:
                _over_long(key, f"{found} characters", limits.max_response_chars)


def check_tokens(
    row: dict[str, Any],
    row_type: str,
    limits: Limits,
    encode_prompt: Callable[[list[Message]], list[int]],
    encode_response: Callable[[list[Message], list[Message]], list[int]],
) -> None:
    """Limits in tokens, as training counts them."""
    prompt = len(encode_prompt(row["prompt"]))
    if limits.max_prompt_tokens is not None and prompt > limits.max_prompt_tokens:
        _over_long("prompt", f"{prompt} tokens", limits.max_prompt_tokens)
    if limits.max_tokens is not None:
        for key, response in responses_of(row, row_type):
            found = prompt + len(encode_response(row["prompt"], response))
            if found > limits.max_tokens:
                _over_long(f"prompt + {key}", f"{found} tokens", limits.max_tokens)


def _over_long(key: str, found: str, limit: int) -> None:
    raise BadRow("over_long", f"{key}: found {found}, at most {limit} allowed", RejectKind.LIMIT)
