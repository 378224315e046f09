"""Chat templates and control tokens: what `tokens.py` stands on.

`ChatCodec` renders with a tokenizer's chat template and encodes the text so that only the
template, never the data, makes control tokens. The fast way is one rendering and one encoding;
its control tokens are compared with those of the conversation's *skeleton* (same roles, neutral
contents, cached). Where they differ, contents hold special strings, and the slow way encodes:

    contents, special strings → private-use characters
      ─ render ─► split at the template's own control strings
      ─ each section: characters → special strings again ─► encoded as plain text
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from rayonale.records import Message

_TODAY = datetime(2024, 7, 26)  # the date that Llama 3 templates fall back to
_MARK = "\U0010fffd"  # stands for a content whose place is wanted
_ESCAPES = range(0xF0000, 0xFFFFE)  # private use: unassigned, not white space, no case


@dataclass(frozen=True)
class Skeleton:
    """What a conversation of given roles looks like, whatever its contents.

    Attributes:
        prompt: control tokens of the conversation with the generation prompt.
        turn: control tokens of its last turn, if the assistant's, after the generation prompt.
        ends: whether a token of the template's own ends that turn.
        drop: text that the template adds after that token.
        anchor: text, from a control token on, that comes before that turn.
    """

    prompt: list[int]
    turn: list[int]
    ends: bool = False
    drop: str = ""
    anchor: str = ""


class ChatCodec:
    """Rendering and encoding for one tokenizer and its chat template.

    Raises:
        ValueError: the tokenizer has no chat template or is not a fast one.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.template = tokenizer.chat_template
        self._name = tokenizer.name_or_path or type(tokenizer).__name__
        if not isinstance(self.template, str) or not self.template:
            raise ValueError(f"tokenizer {self._name!r} has no chat template; set one")
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(f"tokenizer {self._name!r} is not a fast one (tokenizers library)")
        # Copies: a caller's truncation or padding set on the shared backend must not reach us.
        self._backend = _plain_copy(tokenizer.backend_tokenizer, split_special=False)
        self._plain: Any = None  # made when first needed: it holds the whole vocabulary
        self._source = tokenizer.backend_tokenizer
        self._variables = {**tokenizer.special_tokens_map, "strftime_now": _TODAY.strftime}
        self._bos, self._eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self._added = {t.content: (i, t) for i, t in tokenizer.added_tokens_decoder.items()}
        self._added_re = _alternation(self._added)
        self.has_system_role = self._shows_system()
        self._skeletons: dict[Any, Skeleton] = {}
        seen = self._added_re.findall(self._sample_text()) if self._added_re else []
        self._controls = {
            i for text, (i, token) in self._added.items() if token.special or text in seen
        }
        unk = tokenizer.unk_token_id
        if unk not in {self._bos, self._eos, tokenizer.pad_token_id}:
            self._controls.discard(unk)  # ordinary text may be unknown to the vocabulary
        self._control_texts = [t for t, (i, _) in self._added.items() if i in self._controls]
        self._control_re = _alternation(self._control_texts)
        self._prefixes = self.encode("a b") != self._after("c\n", "a b")

    # ---- what tokens.py calls -----------------------------------------------------------------

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of the prompt with the generation prompt."""
        if not messages or messages[-1]["role"] == "assistant":
            found = [message["role"] for message in messages]
            raise ValueError(f"a prompt ends with a message that is to be answered; found {found}")
        messages = self.adapt(messages)
        wanted = self._skeleton(messages).prompt
        ids = self.encode(self.render(messages, True))
        if self._controls_of(ids) != wanted:
            for strict in (False, True):
                unescape, escaped = self._escape(messages, strict)
                ids = self._encode_escaped(self.render(escaped, True), unescape, start=True)
                if self._controls_of(ids) == wanted:
                    break
            else:
                self._refuse(messages)
        return ids

    def response(self, messages: Sequence[Message], response: Sequence[Message]) -> list[int]:
        """Tokens that follow the prompt's, end-of-turn token included."""
        if len(response) != 1 or response[0]["role"] != "assistant":
            found = [message["role"] for message in response]
            raise ValueError(f"a response is one assistant message; found roles {found}")
        messages = self.adapt(messages)
        both = [*messages, response[0]]
        skeleton = self._skeleton(both)
        wanted = skeleton.turn
        ids = self._continue(self._turn(both), skeleton.anchor)
        if self._controls_of(ids) != wanted:
            for strict in (False, True):
                unescape, escaped = self._escape(both, strict)
                ids = self._encode_escaped(self._turn(escaped), unescape, start=False)
                if self._controls_of(ids) == wanted:
                    break
            else:
                self._refuse(both)
        if skeleton.ends:
            return ids
        if self._eos is None:
            raise ValueError(
                f"the chat template of {self._name!r} ends an assistant turn with no special token "
                "and the tokenizer has no eos token: a response would have no end"
            )
        return [*ids, self._eos]

    def plain(self, text: str) -> list[int]:
        """Tokens of text in which nothing is a control token, after BOS where one is usual."""
        head = self._source.encode("", add_special_tokens=True).ids[:1]
        bos = head if head == [self._bos] else []
        return [*bos, *(self._encode_plain(text, first=True) if text else [])]

    def stop_token_ids(self) -> list[int]:
        """The template's end-of-turn token, then eos."""
        skeleton = self._skeleton([_message("user", "x"), _message("assistant", "x")])
        ends = skeleton.turn[-1:] if skeleton.ends else []
        eos = [] if self._eos is None else [self._eos]
        return list(dict.fromkeys([*ends, *eos]))

    def adapt(self, messages: Sequence[Message]) -> list[Message]:
        """The messages, a leading system one moved into the user's where there is no such role."""
        if self.has_system_role or not messages or messages[0]["role"] != "system":
            return list(messages)
        system, rest = messages[0]["content"], list(messages[1:])
        for place, message in enumerate(rest):
            if message["role"] == "user":
                joined = f"{system}\n\n{message['content']}" if system else message["content"]
                rest[place] = _message("user", joined)
                return rest
        return [_message("user", system), *rest]

    # ---- rendering ----------------------------------------------------------------------------

    def render(self, messages: Sequence[Message], open_turn: bool) -> str:
        """Text of a conversation; `open_turn` adds what opens the assistant's turn."""
        try:
            rendered, _ = render_jinja_template(
                [messages],
                chat_template=self.template,
                add_generation_prompt=open_turn,
                **self._variables,
            )
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ValueError(
                f"the chat template of {self._name!r} refuses roles ({roles}): {error}"
            ) from error
        return str(rendered[0])

    def _turn(self, both: Sequence[Message]) -> str:
        """What the template adds after the prompt for the last message, cut after end of turn."""
        drop = self._skeleton(both).drop
        text = self._turn_text(both)
        if not text.endswith(drop):
            raise ValueError(
                f"the chat template of {self._name!r} does not end an assistant turn with {drop!r} "
                f"as it does elsewhere; found {text[-40:]!r}"
            )
        return text[: len(text) - len(drop)]

    def _turn_text(self, both: Sequence[Message]) -> str:
        # Some templates (Mistral's system text) show the last user turn otherwise once it is
        # answered; the turn is then taken from the shortest conversation.
        for prompt in (both[:-1], [_message("user", "x")]):
            opened = self.render(prompt, True)
            whole = self.render([*prompt, both[-1]], False)
            if whole.startswith(opened):
                return whole[len(opened) :]
        raise ValueError(
            f"the chat template of {self._name!r} opens an assistant turn with {opened[-40:]!r} "
            f"for generation but shows it as {whole[-60:]!r}; give another `chat_template`"
        )

    def _skeleton(self, messages: Sequence[Message]) -> Skeleton:
        key = tuple((m["role"], not m["content"] or m["content"].isspace()) for m in messages)
        if key not in self._skeletons:
            if len(self._skeletons) > 10_000:
                self._skeletons.clear()
            self._skeletons[key] = self._build_skeleton(key)
        return self._skeletons[key]

    def _build_skeleton(self, key: Sequence[tuple[str, bool]]) -> Skeleton:
        neutral = [_message(role, "" if blank else "x") for role, blank in key]
        if neutral[-1]["role"] != "assistant":
            prompt = self.encode(self.render(neutral, True))
            if self._bos is not None and prompt[:2] == [self._bos, self._bos]:
                raise ValueError(f"the chat template of {self._name!r} begins with two BOS tokens")
            return Skeleton(self._controls_of(prompt), turn=[])
        marked = self._turn_text([*neutral[:-1], _message("assistant", _MARK)])
        tail = marked[marked.index(_MARK) + 1 :]
        found = self._added_re.search(tail) if self._added_re else None
        drop = tail[found.end() :] if found else tail
        turn = self.encode(marked[: len(marked) - len(drop)].replace(_MARK, neutral[-1]["content"]))
        opened = self.render(neutral[:-1] or [_message("user", "x")], True)
        controls = list(self._control_re.finditer(opened)) if self._control_re else []
        anchor = opened[controls[-1].start() :] if controls else opened
        return Skeleton([], self._controls_of(turn), found is not None, drop, anchor)

    # ---- encoding -----------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Tokens of text in which control strings are control tokens; nothing is added."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def _controls_of(self, ids: list[int]) -> list[int]:
        return list(filter(self._controls.__contains__, ids))

    def _after(self, anchor: str, text: str) -> list[int] | None:
        """Tokens of `text` where it follows `anchor`; None when they merge."""
        before, whole = self.encode(anchor), self.encode(anchor + text)
        return whole[len(before) :] if whole[: len(before)] == before else None

    def _continue(self, text: str, anchor: str) -> list[int]:
        # SentencePiece-like tokenizers put a space before any text; here the text goes on.
        if self._prefixes:
            for before in (anchor, "c\n"):
                ids = self._after(before, text)
                if ids is not None:
                    return ids
        return self.encode(text)

    def _escape(self, messages: Sequence[Message], strict: bool) -> Any:
        """Contents with special strings (strict: also their first characters) as private use."""
        texts = list(self._control_texts)
        if strict:
            texts += sorted({text[0] for text in texts})
        pattern = _alternation(texts)
        used = set().union(*(message["content"] for message in messages))
        free = (chr(code) for code in _ESCAPES if chr(code) not in used)
        escape = dict(zip(texts, free, strict=False))
        if pattern is None:
            return {}, list(messages)
        escaped = [
            _message(m["role"], pattern.sub(lambda found: escape[found[0]], m["content"]))
            for m in messages
        ]
        return {ord(code): text for text, code in escape.items()}, escaped

    def _encode_escaped(self, text: str, unescape: dict[int, str], start: bool) -> list[int]:
        """Encode rendered text whose data is escaped: control strings left are the template's."""
        ids: list[int] = []
        place = 0
        eats_space = False
        for found in [*(self._control_re.finditer(text) if self._control_re else []), None]:
            section = text[place : found.start() if found else len(text)]
            if eats_space:
                section = section.lstrip()
            if found and self._added[found[0]][1].lstrip:
                section = section.rstrip()
            if section:
                first = start and place == 0
                ids += self._encode_plain(section.translate(unescape), first)
            if found:
                control, token = self._added[found[0]]
                ids.append(control)
                place, eats_space = found.end(), token.rstrip
        return ids

    def _encode_plain(self, text: str, first: bool = False) -> list[int]:
        """Tokens of text in which nothing is a control token."""
        if self._plain is None:
            self._plain = _plain_copy(self._source, split_special=True)
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        if self._prefixes and not first:
            anchor = self._plain.encode("c\n", add_special_tokens=False).ids
            whole = self._plain.encode("c\n" + text, add_special_tokens=False).ids
            if whole[: len(anchor)] == anchor:
                ids = whole[len(anchor) :]
        if self._controls.isdisjoint(ids):
            return ids
        if len(text) < 2:
            raise ValueError(f"tokenizer {self._name!r} has only a control token for {text!r}")
        # Added tokens that are not "special", and Unigram vocabularies that hold "</s>" as a
        # piece, still match: a string that is cut in two cannot.
        found = self._control_re.search(text) if self._control_re else None
        middle = found.start() + 1 if found and found.start() + 1 < len(text) else len(text) // 2
        return self._encode_plain(text[:middle], first) + self._encode_plain(text[middle:])

    # ---- facts about the template -------------------------------------------------------------

    def _shows_system(self) -> bool:
        messages = [_message("system", _MARK), _message("user", "x")]
        try:
            return _MARK in self.render(messages, True)
        except ValueError:
            return False

    def _sample_text(self) -> str:
        turns = [_message("user", "x"), _message("assistant", "x")]
        system = [_message("system", "x")] if self.has_system_role else []
        return self.render(system + turns, False) + self.render(turns[:1], True)

    def _refuse(self, messages: Sequence[Message]) -> None:
        raise ValueError(
            f"the chat template of {self._name!r} makes other control tokens for this "
            f"conversation than for its roles: {[m['content'][:80] for m in messages]}"
        )


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _alternation(texts: Any) -> re.Pattern[str] | None:
    ordered = sorted((text for text in texts if text), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None


def _plain_copy(backend: Any, split_special: bool) -> Any:
    copy = type(backend).from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = split_special
    return copy
