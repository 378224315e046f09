"""Bad and hostile requests, with the status that each must get."""

# ruff: noqa: E501 (a table)

from __future__ import annotations

import json
from typing import Any, NamedTuple

CHAT, TEXT, REWARDS = "/v1/chat/completions", "/v1/completions", "/v1/rewards"
JUDGE = "/v1/judge"
_USER = [{"role": "user", "content": "Hi"}]


class Hostile(NamedTuple):
    """A request, and the status and code of the answer it must get."""

    name: str
    path: str
    body: Any
    status: int
    code: str
    headers: dict[str, str] | None = None
    method: str = "POST"


def _chat(**more: Any) -> dict[str, Any]:
    return {"model": "tinyworld", "messages": _USER, "max_tokens": 4, **more}


def _judge(**more: Any) -> dict[str, Any]:
    return {"model": "tinyworld", "messages": _USER, "responses": ["a"], "max_tokens": 4, **more}


def _without(field: str) -> dict[str, Any]:
    return {name: value for name, value in _chat().items() if name != field}


BAD, JSON = "invalid_value", "invalid_json"

REQUESTS = [
    Hostile("no key", CHAT, _chat(), 401, "missing_api_key", {"authorization": ""}),
    Hostile("wrong key", CHAT, _chat(), 401, "invalid_api_key", {"authorization": "Bearer ray-x"}),
    Hostile("basic login", CHAT, _chat(), 401, "missing_api_key", {"authorization": "Basic eDp4"}),
    Hostile("key of odd bytes", CHAT, _chat(), 401, "invalid_api_key", {"authorization": "Bearer \xff\xfe"}),
    Hostile("no key for metadata", "/v1/models", None, 401, "missing_api_key", {"authorization": ""}, "GET"),
    Hostile("no key for the schema", "/openapi.json", None, 401, "missing_api_key", {"authorization": ""}, "GET"),
    Hostile("form post of a web page", CHAT, b"a=b", 415, "unsupported_media_type", {"content-type": "text/plain"}),
    Hostile("no body", CHAT, b"", 400, BAD),
    Hostile("half a body", CHAT, b'{"model": "tiny', 400, JSON),
    Hostile("not JSON", CHAT, b"<xml/>", 400, JSON),
    Hostile("not UTF-8", CHAT, b'{"model": "\xff\xfe"}', 400, "invalid_request"),
    Hostile("JSON of another kind", CHAT, b"[1, 2]", 400, BAD),
    Hostile("null", CHAT, b"null", 400, BAD),
    Hostile("deeply nested", CHAT, b"[" * 60_000, 400, "invalid_request"),
    Hostile("very long number", CHAT, b'{"seed": ' + b"9" * 50_000 + b"}", 400, "invalid_request"),
    Hostile("too large", CHAT, _chat(user="x" * 300_000), 413, "body_too_large"),
    Hostile("no model", CHAT, _without("model"), 400, BAD),
    Hostile("no messages", CHAT, _without("messages"), 400, BAD),
    Hostile("empty messages", CHAT, _chat(messages=[]), 400, BAD),
    Hostile("messages of text", CHAT, _chat(messages="Hi"), 400, BAD),
    Hostile("unknown role", CHAT, _chat(messages=[{"role": "root", "content": "Hi"}]), 400, BAD),
    Hostile("no content", CHAT, _chat(messages=[{"role": "user"}]), 400, BAD),
    Hostile("null content", CHAT, _chat(messages=[{"role": "user", "content": None}]), 400, BAD),
    Hostile("an image", CHAT, _chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]), 400, BAD),
    Hostile("the assistant last", CHAT, _chat(messages=[{"role": "assistant", "content": "Hi"}]), 400, BAD),
    Hostile("lone surrogate", CHAT, b'{"model": "tinyworld", "messages": [{"role": "user", "content": "\\ud800"}]}', 400, BAD),
    Hostile("unknown model", CHAT, _chat(model="gpt-4"), 404, "model_not_found"),
    Hostile("a path as model", CHAT, _chat(model="../../etc/passwd"), 404, "model_not_found"),
    Hostile("model of another kind", CHAT, _chat(model=7), 400, BAD),
    Hostile("temperature as text", CHAT, _chat(temperature="hot"), 400, BAD),
    Hostile("temperature too high", CHAT, _chat(temperature=99), 400, BAD),
    Hostile("temperature is no number", CHAT, b'{"model": "tinyworld", "messages": [{"role": "user", "content": "Hi"}], "temperature": NaN}', 400, BAD),
    Hostile("endless temperature", CHAT, b'{"model": "tinyworld", "messages": [{"role": "user", "content": "Hi"}], "temperature": 1e999}', 400, BAD),
    Hostile("negative top_p", CHAT, _chat(top_p=-1), 400, BAD),
    Hostile("n of zero", CHAT, _chat(n=0), 400, BAD),
    Hostile("n too large", CHAT, _chat(n=10_000_000), 400, "too_many_samples"),
    Hostile("best_of too large", CHAT, _chat(best_of=10_000_000), 400, "too_many_samples"),
    Hostile("best_of of a stream", CHAT, _chat(best_of=2, stream=True), 400, BAD),
    Hostile("no tokens", CHAT, _chat(max_tokens=0), 400, BAD),
    Hostile("too many tokens", CHAT, _chat(max_tokens=10**9), 400, "context_length_exceeded"),
    Hostile("too long a prompt", CHAT, _chat(messages=[{"role": "user", "content": "bird " * 3_000}]), 400, "context_length_exceeded"),
    Hostile("too long a prompt in a stream", CHAT, _chat(messages=[{"role": "user", "content": "bird " * 3_000}], stream=True), 400, "context_length_exceeded"),
    Hostile("too many turns", CHAT, _chat(messages=_USER * 2_000), 400, BAD),
    Hostile("negative seed", CHAT, _chat(seed=-1), 400, BAD),
    Hostile("stop of nothing", CHAT, _chat(stop=""), 400, BAD),
    Hostile("many stops", CHAT, _chat(stop=["x"] * 100), 400, BAD),
    Hostile("logprobs of a large number", CHAT, _chat(logprobs=True, top_logprobs=10_000), 400, BAD),
    Hostile("a template of the caller's", CHAT, _chat(chat_template="{{ 1/0 }}"), 400, BAD),
    Hostile("an engine's argument", CHAT, _chat(prompt_token_ids=[0, 1, 2]), 400, BAD),
    Hostile("a tool", CHAT, _chat(tools=[{"type": "function"}]), 400, BAD),
    Hostile("a goal that it has not", CHAT, _chat(goal=7.0), 400, "invalid_goal"),
    Hostile("prompt of token ids", TEXT, {"model": "tinyworld", "prompt": [0, 1, 2]}, 400, BAD),
    Hostile("empty prompt", TEXT, {"model": "tinyworld", "prompt": ""}, 400, BAD),
    Hostile("reward of a question", REWARDS, {"messages": [*_USER, *_USER]}, 400, BAD),
    Hostile("reward of nothing", REWARDS, {"conversations": []}, 400, BAD),
    Hostile("two ways to ask", REWARDS, {"messages": [*_USER], "conversations": [[*_USER]]}, 400, BAD),
    Hostile("too long for a reward", REWARDS, {"messages": [*_USER, {"role": "assistant", "content": "bird " * 3_000}]}, 400, "context_length_exceeded"),
    Hostile("too many for rewards", REWARDS, {"conversations": [[*_USER, {"role": "assistant", "content": "a"}]] * 300}, 413, "too_many_conversations"),
    Hostile("unknown oracle", REWARDS, {"model": "x", "messages": [*_USER, {"role": "assistant", "content": "a"}]}, 404, "model_not_found"),
    Hostile("rendered text", "/get_reward", {"query": ["<|assistant|>x<|end|>"]}, 403, "rendered_text_off"),
    Hostile("a pick of one text", "/v1/preferences", {"messages": _USER, "chosen": {"content": "a", "model": "m"}, "rejected": {"content": "a", "model": "m"}}, 400, BAD),
    Hostile("a judgement of three", JUDGE, _judge(responses=["a", "b", "c"]), 400, BAD),
    Hostile("a judgement of nothing", JUDGE, _judge(responses=[]), 400, BAD),
    Hostile("too many judgements", JUDGE, _judge(n=10_000, temperature=1.0), 400, "too_many_samples"),
    Hostile("equal judgements", JUDGE, _judge(n=2), 400, BAD),
    Hostile("a rubric of one score", JUDGE, _judge(rubric={"criteria": "x", "scores": {"1": "y"}}), 400, BAD),
    Hostile("an order for one response", JUDGE, _judge(orders="ab"), 400, BAD),
    Hostile("unknown path", "/v1/admin", _chat(), 404, "not_found"),
    Hostile("path upwards", "/../../etc/passwd", None, 404, "not_found", None, "GET"),
    Hostile("wrong method", CHAT, None, 405, "method_not_allowed", None, "GET"),
    Hostile("odd method", CHAT, None, 405, "method_not_allowed", None, "PATCH"),
]  # fmt: skip


def content(request: Hostile) -> bytes | None:
    """The bytes of a request's body."""
    if request.body is None or isinstance(request.body, bytes):
        return request.body
    return json.dumps(request.body).encode()
