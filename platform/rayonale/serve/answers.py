"""OpenAI's answers: whole ones, and the events of a stream."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rayonale.serve.messages import Begun, Piece, TokenLogprob

Kind = Literal["chat", "completion"]

DONE = b"data: [DONE]\n\n"
_OBJECTS = {
    ("chat", False): "chat.completion",
    ("chat", True): "chat.completion.chunk",
    ("completion", False): "text_completion",
    ("completion", True): "text_completion",
}


@dataclass
class Writer:
    """Writes one request's answer.

    Attributes:
        id: of the answer.
        model: as the request calls it.
        top: alternatives that a completion's log-probabilities show, besides the drawn token.
    """

    kind: Kind
    id: str
    model: str
    stream: bool
    top: int | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    _offsets: dict[int, int] = field(default_factory=dict)

    def whole(
        self,
        begun: Begun,
        pieces: Sequence[Piece],
        tokens: int,
        rewards: Sequence[float] | None,
        more: dict[str, Any],
    ) -> dict[str, Any]:
        """The answer of a request that is not streamed.

        Args:
            pieces: the samples that are returned, in their order.
            tokens: drawn for all samples.
            rewards: of the returned ones, when they were chosen by reward.
            more: further fields.
        """
        choices = []
        for index, piece in enumerate(pieces):
            choice: dict[str, Any] = {"index": index, "finish_reason": piece.finish_reason}
            if self.kind == "chat":
                choice["message"] = {"role": "assistant", "content": piece.text}
            else:
                choice["text"] = piece.text
            choice["logprobs"] = self._logprobs(piece)
            if rewards is not None:
                choice["reward"] = rewards[index]
            choices.append(choice)
        return {
            **self._head(begun),
            "choices": choices,
            "usage": usage(begun.prompt_tokens, tokens),
            **more,
        }

    def opening(self, begun: Begun, samples: int) -> bytes:
        """The first event of a chat's stream: who speaks."""
        if self.kind == "completion":
            return b""
        delta = {"role": "assistant", "content": ""}
        return b"".join(
            self._event(begun, [{"index": i, "delta": delta, "finish_reason": None}])
            for i in range(samples)
        )

    def event(self, begun: Begun, piece: Piece) -> bytes:
        """The next part of a sample."""
        choice: dict[str, Any] = {"index": piece.index, "finish_reason": piece.finish_reason}
        if self.kind == "chat":
            choice["delta"] = {"content": piece.text} if piece.text else {}
        else:
            choice["text"] = piece.text
        choice["logprobs"] = self._logprobs(piece)
        return self._event(begun, [choice])

    def usage_event(self, begun: Begun, tokens: int) -> bytes:
        """The last event of a stream that was asked for its usage."""
        return self._event(begun, [], usage(begun.prompt_tokens, tokens))

    def _event(self, begun: Begun, choices: list[Any], used: Any = None) -> bytes:
        body = {**self._head(begun), "choices": choices}
        if used is not None:
            body["usage"] = used
        return event(body)

    def _head(self, begun: Begun) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": _OBJECTS[self.kind, self.stream],
            "created": self.created,
            "model": self.model,
            "system_fingerprint": begun.model.told,
        }

    def _logprobs(self, piece: Piece) -> dict[str, Any] | None:
        if piece.logprobs is None:
            return None
        if self.kind == "chat":
            return {"content": [_chat_token(token) for token in piece.logprobs], "refusal": None}
        place = self._offsets.get(piece.index, 0)
        offsets = []
        for token in piece.logprobs:
            offsets.append(place)
            place += len(token.text)
        self._offsets[piece.index] = place
        return {
            "tokens": [token.text for token in piece.logprobs],
            "token_logprobs": [_number(token.logprob) for token in piece.logprobs],
            "top_logprobs": [
                {text: _number(value) for text, value in token.top} for token in piece.logprobs
            ],
            "text_offset": offsets,
        }


def usage(prompt: int, completion: int) -> dict[str, int]:
    """OpenAI's count of tokens."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def event(body: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def _chat_token(token: TokenLogprob) -> dict[str, Any]:
    top = [_told(text, value) for text, value in token.top]
    return {**_told(token.text, token.logprob), "top_logprobs": top}


def _told(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": _number(logprob), "bytes": list(text.encode())}


def _number(logprob: float) -> float:
    return max(logprob, -9999.0)  # OpenAI's word for "next to impossible"; JSON has no infinity
