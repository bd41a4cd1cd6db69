"""Domain errors as answers: the one place that maps them to status codes."""

from __future__ import annotations

import math

from gridnode.errors import (
    Conflict,
    GridNodeError,
    InvalidRequest,
    NotFound,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from gridnode.protocol import messages

_STATUS: dict[type[GridNodeError], int] = {
    InvalidRequest: 400,
    Unauthorized: 401,
    NotFound: 404,
    Conflict: 409,
    TooLarge: 413,
    TooManyRequests: 429,
    Unavailable: 503,
}

DATABASE_SILENT = "the database does not answer, try again in a moment"
INTERNAL = "the node failed to handle this request; its log has the details under the request id"


def status_of(error: GridNodeError) -> int:
    """The HTTP status of a domain error, by the nearest class that has one."""
    for kind in type(error).__mro__:
        if kind in _STATUS:
            return _STATUS[kind]
    return 500


def error_answer(error: GridNodeError) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers (without the length) and body of an error over HTTP."""
    body = messages.encode({"error": error.message})
    headers = [("content-type", "application/json")]
    if isinstance(error, TooManyRequests | Unavailable):
        headers.append(("retry-after", str(math.ceil(error.retry_after))))
    return status_of(error), headers, body
