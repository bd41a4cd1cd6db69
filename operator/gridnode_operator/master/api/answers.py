"""Answers of both APIs: JSON, entity tags, pages, and errors in the form that each API has."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from flask import Response, request
from werkzeug.exceptions import HTTPException

from gridnode.errors import GridNodeError, Unauthorized
from gridnode_operator.master.errors import INTERNAL, retry_after, status_of

log = logging.getLogger(__name__)

V1: Final = "/api/v1"
_JSON: Final = "application/json"
_PROBLEM: Final = "application/problem+json"


def json_answer(value: object, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(msgspec.json.encode(value), status, content_type=_JSON)


def tagged_answer(value: object) -> Response:
    """A JSON answer with an entity tag; 304 if the caller has it already."""
    body = msgspec.json.encode(value)
    answer = Response(body, content_type=_JSON)
    answer.set_etag(hashlib.sha256(body).hexdigest()[:32])
    answer.headers["Cache-Control"] = "private, no-cache"
    answer.headers["Vary"] = "Authorization"
    answer.make_conditional(request.environ)
    return answer


def page_answer(items: Sequence[Any], limit: int, cursor: str) -> Response:
    """A page of a list: ``items``, and in ``next`` the value of ``after`` for the page that follows.

    Args:
        items: At most ``limit`` views.
        limit: What was asked for.
        cursor: The field of the last item that says where the next page begins.
    """
    following = getattr(items[-1], cursor) if len(items) == limit else None
    return tagged_answer({"items": list(items), "next": following})


def domain_error(error: GridNodeError) -> Response:
    """The answer of a domain error."""
    status = status_of(error)
    if status == 401 and request.endpoint == "info":
        status = 400  # apps of 2020 know no other
    log.info("request refused", extra={"status": status, "reason": error.message, "path": request.path})
    message = error.message if status != 500 else INTERNAL
    answer = _error(status, message)
    after = retry_after(error)
    if after is not None:
        answer.headers["Retry-After"] = after
    if isinstance(error, Unauthorized) and status == 401:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def http_error(error: HTTPException) -> Response:
    """The answer of what Flask refuses by itself: no such path, no such method."""
    answer = _error(error.code or 500, (error.description or error.name).rstrip("."))
    for header, value in error.get_headers():
        if header.lower() == "allow":
            answer.headers[header] = value
    return answer


def unexpected_error(error: Exception) -> Response:
    """The answer of a failure that nobody foresaw; the log has the traceback."""
    log.error("request failed", exc_info=error, extra={"path": request.path})
    return _error(500, INTERNAL)


def _error(status: int, message: str) -> Response:
    if not request.path.startswith(V1):
        return json_answer({"error": message}, status)
    problem = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": message}
    return Response(msgspec.json.encode(problem), status, content_type=_PROBLEM)
