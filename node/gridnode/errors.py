"""Errors a client may see.

Domain code raises these and knows nothing of HTTP; the edge maps each class to a status code in one place
(:mod:`gridnode.protocol.http`). A message says what is wrong, where, and what to do, and never holds a secret, SQL or
a path.
"""

from __future__ import annotations


class GridNodeError(Exception):
    """Base of all errors whose message is meant for the caller."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(GridNodeError):
    """The request is wrong in itself; repeating it unchanged cannot succeed."""


class Unauthorized(GridNodeError):
    """The caller did not prove who it is, or there is nothing here for it."""


class NotFound(GridNodeError):
    """What the request names does not exist."""


class Conflict(GridNodeError):
    """The request contradicts the present state, which another request may change."""


class TooLarge(GridNodeError):
    """The body, or something declared in it, passes a limit."""


class TooManyRequests(GridNodeError):
    """The caller passed a rate or connection limit; ``retry_after`` is in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(GridNodeError):
    """The node can't answer now (database away, shutting down); ``retry_after`` is in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after
