"""Between the ASGI server and what answers: admission, bodies, threads, metrics.

Bodies are read on the event loop, so a slow sender holds a few kilobytes and no thread; only a whole body goes further.
What is refused here (too large, too slow, too many) costs the node next to nothing.

A request to one of the listener's routes is answered on the event loop if its body is small and all it needs is in
memory: to hand it to a thread and back would cost several times the work itself. Everything else, and every request
that turns out to have to wait, runs in a thread. Commits are awaited by the loop, so they hold no thread each.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol
from wsgiref.types import WSGIApplication

from gridnode.errors import GridNodeError, InvalidRequest, TooLarge, Unavailable
from gridnode.logs import request_scope
from gridnode.protocol import messages
from gridnode.protocol.answers import DATABASE_SILENT, error_answer, status_of
from gridnode.protocol.device import Pending
from gridnode.protocol.routes import ANY_ORIGIN, Call, Outcome, Reply, Route, Routes, failure, parse_query, success
from gridnode.protocol.wsgi import ENDPOINT, Scope, call, make_environ
from gridnode.reporting import metrics
from gridnode.security.limits import AddressLimiter, Network, client_address
from gridnode.waiting import WouldWait

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_SMALL_BODY = 64 * 1024
#: Bytes up to which a body is handled on the event loop, in well under a millisecond if it is a report of floats.
_QUICK_BODY = 2 * 1024 * 1024
_CORS = (ANY_ORIGIN[0].encode(), ANY_ORIGIN[1].encode())


class WebSocketHandler(Protocol):
    """What serves WebSocket connections of a listener."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Bounds on request bodies: bytes of one, seconds to arrive, bytes of all that are held at once.

    ``discarded`` are paths whose bodies are counted and thrown away (speed test).
    """

    largest: int
    seconds: float
    in_memory: int
    discarded: frozenset[str] = frozenset()


class Listener:
    """An ASGI application for one port: HTTP to routes or a Flask application, WebSocket to its own handler.

    Args:
        wsgi: The Flask application, for what is none of the routes.
        websocket: Serves WebSocket connections.
        executor: Where the Flask application runs, and what has to wait.
        limiter: Requests per client address.
        bodies: Bounds on request bodies.
        trusted_proxies: Whose X-Forwarded-For is believed.
        answer_seconds: Seconds after which an answer is given up with 503; None waits.
        routes: Answered without Flask.
    """

    def __init__(
        self,
        wsgi: WSGIApplication,
        websocket: WebSocketHandler,
        executor: Executor,
        limiter: AddressLimiter,
        bodies: BodyLimits,
        trusted_proxies: tuple[Network, ...] = (),
        answer_seconds: float | None = None,
        routes: Routes | None = None,
    ) -> None:
        self._wsgi = wsgi
        self._websocket = websocket
        self._executor = executor
        self._limiter = limiter
        self._bodies = bodies
        self._trusted_proxies = trusted_proxies
        self._answer_seconds = answer_seconds
        self._routes: Routes = routes or {}
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            scope["client"] = (self._client(scope), 0)
            await self._websocket(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        with request_scope() as request_id:
            exchange = _Exchange(request_id)
            try:
                self._limiter.admit_request(self._client(scope))
                body = await self._read_body(scope, receive, exchange)
                route = self._routes.get((scope["method"], scope["path"]))
                if route is None:
                    await self._answer(scope, body, exchange, send)
                else:
                    await self._answer_route(route, Call(body, parse_query(scope["query_string"])), exchange, send)
            except _Disconnected:
                return
            except GridNodeError as error:
                await self._refuse(error, exchange, send)
            finally:
                self._held -= exchange.held
        seconds = time.monotonic() - started
        metrics.observe_request(exchange.endpoint, "http", exchange.status, seconds, exchange.received, exchange.sent)

    def _client(self, scope: Scope) -> str:
        peer = scope["client"][0] if scope.get("client") else ""
        if not self._trusted_proxies:
            return str(peer)
        forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        return client_address(peer, ", ".join(forwarded) or None, self._trusted_proxies)

    async def _read_body(self, scope: Scope, receive: Receive, exchange: _Exchange) -> bytes:
        limits = self._bodies
        keep = scope["path"] not in limits.discarded
        if _declared_length(scope) > limits.largest:
            raise self._too_large()
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(limits.seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise _Disconnected
                    chunk = message.get("body", b"")
                    exchange.received += len(chunk)
                    self._reserve(exchange.received, exchange, keep=keep)
                    if keep and chunk:
                        parts.append(chunk)
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise InvalidRequest(f"the body did not arrive within {limits.seconds:g} s") from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _reserve(self, size: int, exchange: _Exchange, *, keep: bool) -> None:
        """Count the ``size`` bytes of a body that have arrived so far against the limits.

        What is only declared costs its sender nothing, so it isn't counted; and small bodies always pass, so that
        phones can authenticate whatever large bodies are on their way.
        """
        if size > self._bodies.largest:
            raise self._too_large()
        if not keep or size <= _SMALL_BODY:
            return
        if self._held + size - exchange.held > self._bodies.in_memory:
            raise Unavailable("the node is busy with other large bodies, try again in a moment", retry_after=1)
        self._held += size - exchange.held
        exchange.held = size

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is larger than {self._bodies.largest} bytes, which is the most this node accepts")

    async def _answer_route(self, route: Route, call: Call, exchange: _Exchange, send: Send) -> None:
        exchange.endpoint = route.endpoint
        try:
            reply = success(await self._outcome(route, call, exchange))
        except TimeoutError:
            raise Unavailable(DATABASE_SILENT, retry_after=5) from None
        except Exception as error:
            reply = failure(error, route.endpoint)
        await _send(reply, exchange, send)

    async def _outcome(self, route: Route, call: Call, exchange: _Exchange) -> messages.Answer | bytes:
        outcome: Outcome | None = None
        if len(call.body) <= _QUICK_BODY:
            with contextlib.suppress(WouldWait):
                outcome = route.handler(call)
        if outcome is not None and not isinstance(outcome, Pending):
            return outcome
        async with asyncio.timeout(self._answer_seconds):
            if outcome is None:
                loop = asyncio.get_running_loop()
                outcome = await loop.run_in_executor(self._executor, _handle, route, call, exchange.request_id)
            if isinstance(outcome, Pending):
                return outcome.finish(await asyncio.wrap_future(outcome.committed))
            return outcome

    async def _answer(self, scope: Scope, body: bytes, exchange: _Exchange, send: Send) -> None:
        environ = make_environ(scope, body)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._answer_seconds):
                chunks = await loop.run_in_executor(self._executor, self._run, environ, exchange)
        except TimeoutError:
            # The thread is still stuck in a database that takes bytes and gives none; what it does later is harmless.
            raise Unavailable(DATABASE_SILENT, retry_after=5) from None
        finally:
            exchange.endpoint = environ.get(ENDPOINT, "other")
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in exchange.headers]
        headers.append((b"x-request-id", exchange.request_id.encode()))
        await send({"type": "http.response.start", "status": exchange.status, "headers": headers})
        if scope["method"] == "HEAD":
            chunks = []
        if isinstance(chunks, list):
            exchange.sent = sum(map(len, chunks))
            await send({"type": "http.response.body", "body": b"".join(chunks) if len(chunks) != 1 else chunks[0]})
            return
        # Streams are made of memory at hand and never wait, so they may run here.
        for chunk in chunks:
            exchange.sent += len(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def _run(self, environ: dict[str, Any], exchange: _Exchange) -> Iterable[bytes]:
        """Call the Flask application, in a thread of the pool."""
        with request_scope(exchange.request_id):
            return call(self._wsgi, environ, exchange.start_response)

    async def _refuse(self, error: GridNodeError, exchange: _Exchange, send: Send) -> None:
        log.info("request refused", extra={"status": status_of(error), "reason": error.message})
        status, headers, body = error_answer(error)
        await _send(Reply(status, [*headers, ("connection", "close")], body), exchange, send)


async def _send(reply: Reply, exchange: _Exchange, send: Send) -> None:
    exchange.status, exchange.sent = reply.status, len(reply.body)
    headers = [(name.encode(), value.encode()) for name, value in reply.headers]
    headers += [
        (b"content-length", b"%d" % len(reply.body)),
        _CORS,
        (b"x-request-id", exchange.request_id.encode()),
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def _handle(route: Route, call: Call, request_id: str) -> Outcome:
    """Call a route's handler, in a thread of the pool."""
    with request_scope(request_id):
        return route.handler(call)


class _Disconnected(Exception):
    """The client went away before its body was complete."""


class _Exchange:
    """One request's answer on its way from Flask."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.status = 499
        self.headers: list[tuple[str, str]] = []
        self.endpoint = "other"
        self.received = 0
        self.sent = 0
        # Bytes of the body that count against what the listener may hold.
        self.held = 0

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        self.status = int(status[:3])
        self.headers = headers
        return lambda data: None


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            try:
                return max(0, int(value))
            except ValueError:
                raise InvalidRequest("Content-Length is not a number") from None
    return 0
