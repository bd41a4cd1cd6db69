"""The device endpoints by method and path, known to the event loop and to Flask alike.

A request that names one of them exactly is answered without Flask, and on the event loop as long as what it needs is in
memory (see :mod:`gridnode.protocol.asgi`). Every other form of it (HEAD, OPTIONS, a slash at the end, a wrong method)
goes through Flask, which calls the same handlers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from gridnode.errors import GridNodeError, InvalidRequest
from gridnode.protocol import messages
from gridnode.protocol.answers import INTERNAL, error_answer
from gridnode.protocol.device import DeviceEndpoints, Pending
from gridnode.protocol.messages import Answer

log = logging.getLogger(__name__)

PREFIX = "/model-centric"

#: A device may be a page in a browser, of any origin.
ANY_ORIGIN = ("access-control-allow-origin", "*")
_JSON = [("content-type", "application/json")]
# Good for one worker only, so no cache between may keep it.
_BINARY = [("content-type", "application/octet-stream"), ("cache-control", "private, no-store")]

Body = bytes | bytearray
#: What a handler gives: a JSON object or bytes, at once or after a commit.
Outcome = Answer | bytes | Pending


@dataclass(frozen=True, slots=True)
class Call:
    """A whole request to one of the routes. ``query`` has the first value of each name."""

    body: Body = b""
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint: its name in metrics, and what answers it or raises an error of :mod:`gridnode.errors`."""

    endpoint: str
    handler: Callable[[Call], Outcome]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer over HTTP; ``headers`` lack the length."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


Routes = Mapping[tuple[str, str], Route]


def device_routes(endpoints: DeviceEndpoints) -> dict[tuple[str, str], Route]:
    """The routes by method and path."""

    def authenticate(call: Call) -> Answer:
        return endpoints.authenticate(messages.decode(call.body, messages.AuthenticateRequest))

    def report(call: Call) -> Pending:
        return endpoints.report(*messages.decode_report(call.body))

    handlers: dict[tuple[str, str], Callable[[Call], Outcome]] = {
        ("POST", "authenticate"): authenticate,
        ("POST", "cycle-request"): lambda call: answer_cycle_request(endpoints, call.body),
        ("POST", "report"): report,
        ("GET", "get-model"): lambda call: endpoints.get_model(call.query),
        ("GET", "get-plan"): lambda call: endpoints.get_plan(call.query),
        ("GET", "get-protocol"): lambda call: endpoints.get_protocol(call.query),
    }
    return {(method, f"{PREFIX}/{name}"): Route(name, handler) for (method, name), handler in handlers.items()}


def answer_cycle_request(endpoints: DeviceEndpoints, raw: Body) -> Answer | Pending:
    """Answer a cycle request; one that is an object but wrong is a rejection with the reason.

    Raises:
        InvalidRequest: it is no JSON object.
    """
    try:
        return endpoints.cycle_request(messages.decode(raw, messages.CycleRequest))
    except InvalidRequest as error:
        messages.decode_object(raw)
        log.info("cycle request refused", extra={"reason": error.message})
        return {"status": "rejected", "error": error.message}


def parse_query(query: bytes) -> dict[str, str]:
    """The first value of each name in a query string. Bytes that are no text become replacement characters."""
    values: dict[str, str] = {}
    if query:
        for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="replace"):
            values.setdefault(name, value)
    return values


def success(answer: Answer | bytes) -> Reply:
    """The answer of a handler over HTTP."""
    return Reply(200, _BINARY, answer) if isinstance(answer, bytes) else Reply(200, _JSON, messages.encode(answer))


def failure(error: Exception, path: str) -> Reply:
    """The answer to what a handler raised; logs it."""
    if isinstance(error, GridNodeError):
        status, headers, content = error_answer(error)
        log.info("request refused", extra={"status": status, "reason": error.message, "path": path})
        return Reply(status, headers, content)
    log.error("request failed", exc_info=error, extra={"path": path})
    return Reply(500, _JSON, messages.encode({"error": INTERNAL}))
