"""Errors of the master node beside those of :mod:`gridnode.errors`, and the status code of each."""

from __future__ import annotations

import math
from typing import Final

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


class Forbidden(GridNodeError):
    """The caller is known and may not do this."""


class ProviderFailed(Unavailable):
    """The provider of nodes could not be asked, or refused; the message is for people."""

    def __init__(self, message: str, retry_after: float = 5) -> None:
        super().__init__(message, retry_after)


class NodeUnreachable(Unavailable):
    """A node did not answer, or not with what was asked for; the message is for people."""

    def __init__(self, message: str, retry_after: float = 5) -> None:
        super().__init__(message, retry_after)


class StorageFailed(Unavailable):
    """Where finished models are kept does not work."""

    def __init__(self, message: str, retry_after: float = 30) -> None:
        super().__init__(message, retry_after)


#: What every unforeseen failure is answered; the log has the rest under the request's id.
INTERNAL: Final = "the master node failed to handle this request; its log has the details under the request id"

_STATUS: Final[dict[type[GridNodeError], int]] = {
    InvalidRequest: 400,
    Unauthorized: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    TooLarge: 413,
    TooManyRequests: 429,
    Unavailable: 503,
}


def status_of(error: GridNodeError) -> int:
    """The HTTP status of a domain error, by the nearest class that has one."""
    for kind in type(error).__mro__:
        if kind in _STATUS:
            return _STATUS[kind]
    return 500


def retry_after(error: GridNodeError) -> str | None:
    """The value of ``Retry-After``, None where the error has none."""
    return str(math.ceil(error.retry_after)) if isinstance(error, TooManyRequests | Unavailable) else None
