"""Errors as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """An answer that is not the one asked for.

    Args:
        status: HTTP status.
        code: snake_case, few distinct values.
        message: what was found and what was expected; never a text of the request's prompts.
        param: the field at fault.
    """

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param

    def body(self) -> dict[str, Any]:
        """The JSON value of the answer."""
        kind = _TYPES.get(self.status)
        if kind is None:
            kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def encoded(self) -> bytes:
        """`body` as JSON."""
        return json.dumps(self.body()).encode()


def of_validation(errors: Sequence[Any]) -> ApiError:
    """pydantic's findings as one error; values that were sent are not repeated."""
    if not errors:
        return ApiError(400, "invalid_request", "the request is not valid")
    first = errors[0]
    if first["type"] == "json_invalid":
        return ApiError(400, "invalid_json", "the body is not valid JSON")
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    message = f"{where}: {first['msg']}" if where else str(first["msg"])
    if len(errors) > 1:
        message += f" (and {len(errors) - 1} more)"
    return ApiError(400, "invalid_value", message[:500], where[:100] or None)
