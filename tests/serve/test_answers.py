"""OpenAI's layouts, to the letter where their clients read it."""

from __future__ import annotations

import json

from rayonale.serve.answers import Writer
from rayonale.serve.errors import ApiError
from rayonale.serve.messages import Begun, Piece, TokenLogprob
from rayonale.serve.served_model import ServedModel

BEGUN = Begun(ServedModel("models:/m@champion", "/m", "m/3", "ab" * 16), 7)
TOKEN = TokenLogprob("é", -0.5, (("é", -0.5), ("e", float("-inf"))))


def test_a_chat_answer() -> None:
    writer = Writer("chat", "req-1", "m", stream=False, created=9)
    answer = writer.whole(BEGUN, [Piece(0, "é", 2, (TOKEN,), "stop")], 2, None, {})
    assert answer == {
        "id": "req-1",
        "object": "chat.completion",
        "created": 9,
        "model": "m",
        "system_fingerprint": "m/3:abababababababab",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "é"},
                "logprobs": {
                    "content": [
                        {
                            "token": "é",
                            "logprob": -0.5,
                            "bytes": [195, 169],
                            "top_logprobs": [
                                {"token": "é", "logprob": -0.5, "bytes": [195, 169]},
                                {"token": "e", "logprob": -9999.0, "bytes": [101]},
                            ],
                        }
                    ],
                    "refusal": None,
                },
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }
    json.dumps(answer, allow_nan=False)


def test_text_offsets_go_on_through_a_stream() -> None:
    writer = Writer("completion", "req-1", "m", stream=True)
    events = [
        writer.event(BEGUN, Piece(0, "éa", 1, (TokenLogprob("éa", -1.0),))),
        writer.event(BEGUN, Piece(0, "b", 1, (TokenLogprob("b", -1.0),), "length")),
    ]
    told = [json.loads(event.removeprefix(b"data: ")) for event in events]
    assert [each["choices"][0]["logprobs"]["text_offset"] for each in told] == [[0], [2]]
    assert [each["choices"][0]["text"] for each in told] == ["éa", "b"]
    assert [each["choices"][0]["finish_reason"] for each in told] == [None, "length"]


def test_errors_have_openais_form() -> None:
    assert ApiError(404, "model_not_found", "no such model", "model").body() == {
        "error": {
            "message": "no such model",
            "type": "not_found_error",
            "param": "model",
            "code": "model_not_found",
        }
    }
    assert ApiError(400, "x", "y").body()["error"]["type"] == "invalid_request_error"
    assert ApiError(503, "x", "y").body()["error"]["type"] == "server_error"
