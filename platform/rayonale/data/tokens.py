"""The one place that renders and tokenises conversations, for every stage.

    prompt messages ── chat template ──► "<s>…<user>…<assistant>"  ──► prompt tokens
    response message ─ chat template ──► "…answer<end of turn>"    ──► response tokens

Prompt and response are encoded apart, as generation sees them, so prompt tokens are a prefix of
prompt + response by construction and no token straddles the boundary. The response ends with the
end-of-turn token; what the template adds after it (ChatML's newline) is dropped. Ordinary text
gets exactly the tokens of `tokenizer.apply_chat_template(..., tokenize=True)`, with two named
departures: "today" in a template is a fixed date (else a row would have other tokens tomorrow),
and a system message is put before the first user message when the template has no system role.

Text of the data never becomes a control token: the control tokens of every encoding are compared
with those of the same conversation with neutral contents, and where they differ the contents'
special strings are encoded as plain text (`controls.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from rayonale import models
from rayonale.data.controls import ChatCodec
from rayonale.records import Message

_codecs: WeakKeyDictionary[Any, ChatCodec] = WeakKeyDictionary()


def load_tokenizer(model_path: str, chat_template: str | None = None) -> Any:
    """Load a tokenizer with a chat template.

    Args:
        model_path: local folder or hub name.
        chat_template: replaces the tokenizer's own. Either Jinja text, the path of a `.jinja`
            file, the name of a `.jinja` file in the model's folder, or the name of one of the
            tokenizer's own several templates.

    Returns:
        A `transformers.PreTrainedTokenizerBase`.

    Raises:
        ValueError: no chat template anywhere, or the named one was not found.
    """
    from transformers import AutoTokenizer

    name, revision = models.pinned(model_path)
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    if chat_template is not None:
        tokenizer.chat_template = _template_text(chat_template, model_path, tokenizer)
    elif isinstance(tokenizer.chat_template, dict):
        tokenizer.chat_template = tokenizer.get_chat_template()
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer of {model_path!r} has no chat template; expected one in its folder, or "
            "`chat_template` set to Jinja text or to the path of a .jinja file"
        )
    _codec(tokenizer)
    return tokenizer


def _template_text(name: str, model_path: str, tokenizer: Any) -> str:
    if "{{" in name or "{%" in name:
        return name
    own = tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else {}
    if name in own:
        return str(own[name])
    candidates = [Path(name), Path(model_path) / name, Path(model_path) / f"{name}.jinja"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.read_text(encoding="utf-8")
    beside = sorted(p.name for p in Path(model_path).glob("*.jinja"))
    raise ValueError(
        f"chat template {name!r} not found: expected Jinja text, the path of a .jinja file, or one "
        f"of {', '.join([*own, *beside]) or 'no named templates with this model'}"
    )


def _codec(tokenizer: Any) -> ChatCodec:
    codec = _codecs.get(tokenizer)
    if codec is None or codec.template != tokenizer.chat_template:
        codec = _codecs[tokenizer] = ChatCodec(tokenizer)
    return codec


def encode_prompt(tokenizer: Any, messages: list[Message]) -> list[int]:
    """Tokens of a prompt, up to and including what opens the assistant's turn.

    Raises:
        ValueError: the template refuses the roles, or the messages are empty.
    """
    return _codec(tokenizer).prompt(messages)


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Tokens of text without a template: BOS where the tokenizer puts one, then plain text.

    Raises:
        ValueError: the text is empty and there is no BOS: nothing to go on from.
    """
    ids = _codec(tokenizer).plain(text)
    if not ids:
        raise ValueError("an empty text has no tokens")
    return ids


def encode_response(tokenizer: Any, messages: list[Message], response: list[Message]) -> list[int]:
    """Tokens that follow `encode_prompt(tokenizer, messages)`, end-of-turn token included.

    Args:
        messages: the prompt.
        response: one assistant message.

    Raises:
        ValueError: `response` is not one assistant message, or the template's generation prompt
            is not how it opens an assistant turn (so training would differ from generation).
    """
    return _codec(tokenizer).response(messages, response)


def encode_example(
    tokenizer: Any, prompt: list[Message], response: list[Message]
) -> tuple[list[int], list[int]]:
    """`(encode_prompt, encode_response)` of one example."""
    codec = _codec(tokenizer)
    return codec.prompt(prompt), codec.response(prompt, response)


def stop_token_ids(tokenizer: Any) -> list[int]:
    """Tokens that end an assistant turn: the template's end-of-turn first, then eos."""
    return _codec(tokenizer).stop_token_ids()


def has_system_role(tokenizer: Any) -> bool:
    """Whether the chat template shows a system message (in any form) and does not refuse it."""
    return _codec(tokenizer).has_system_role


def with_system(messages: list[Message], text: str, tokenizer: Any) -> list[Message]:
    """The conversation with an instruction added.

    It becomes the system message, or follows the one that is there after a blank line; where the
    template has no system role it goes before the first user message, with a blank line.
    """
    if messages and messages[0]["role"] == "system":
        joined = f"{messages[0]['content']}\n\n{text}".strip()
        return [{"role": "system", "content": joined}, *messages[1:]]
    system: Message = {"role": "system", "content": text}
    return _codec(tokenizer).adapt([system, *messages])


def over_long(
    prompt_ids: list[int],
    response_ids: list[int],
    max_length: int | None = None,
    max_prompt_length: int | None = None,
) -> str | None:
    """Why an example does not fit (found and allowed, in tokens), or None when it does."""
    if max_prompt_length is not None and len(prompt_ids) > max_prompt_length:
        return f"prompt has {len(prompt_ids)} tokens, at most {max_prompt_length} allowed"
    total = len(prompt_ids) + len(response_ids)
    if max_length is not None and total > max_length:
        return f"prompt and response have {total} tokens, at most {max_length} allowed"
    return None
