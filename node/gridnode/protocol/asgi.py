"""Between the ASGI server and the Flask applications: admission, bodies, threads, metrics.

Bodies are read on the event loop, so a slow sender holds a few kilobytes and no thread; only a whole body is handed
to a thread. What is refused here (too large, too slow, too many) costs the node next to nothing.
"""

from __future__ import annotations

import asyncio
import io
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes
from wsgiref.types import WSGIApplication

from gridnode.errors import GridNodeError, InvalidRequest, TooLarge, Unavailable
from gridnode.logs import request_scope
from gridnode.protocol.answers import DATABASE_SILENT, error_answer
from gridnode.reporting import metrics
from gridnode.security.limits import AddressLimiter, Network, client_address

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: environ key under which the whole body lies, so that it is not copied through ``wsgi.input``.
BODY = "gridnode.body"
#: environ key of the endpoint's name for metrics; set by the Flask application.
ENDPOINT = "gridnode.endpoint"
#: environ key set by the Flask application when its answer is to be sent chunk by chunk.
STREAM = "gridnode.stream"

_SMALL_BODY = 64 * 1024
_CORS = [(b"access-control-allow-origin", b"*")]


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
    """An ASGI application for one port: HTTP to a Flask application in a thread, WebSocket to its own handler.

    Args:
        wsgi: The Flask application.
        websocket: Serves WebSocket connections.
        executor: Where the Flask application runs.
        limiter: Requests per client address.
        bodies: Bounds on request bodies.
        trusted_proxies: Whose X-Forwarded-For is believed.
        answer_seconds: Seconds after which an answer is given up with 503; None waits.
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
    ) -> None:
        self._wsgi = wsgi
        self._websocket = websocket
        self._executor = executor
        self._limiter = limiter
        self._bodies = bodies
        self._trusted_proxies = trusted_proxies
        self._answer_seconds = answer_seconds
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
                await self._answer(scope, body, exchange, send)
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

    async def _answer(self, scope: Scope, body: bytes, exchange: _Exchange, send: Send) -> None:
        environ = _environ(scope, body)
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
            result = self._wsgi(environ, exchange.start_response)
            if environ.get(STREAM):
                return result
            try:
                return list(result)
            finally:
                close = getattr(result, "close", None)
                if close is not None:
                    close()

    async def _refuse(self, error: GridNodeError, exchange: _Exchange, send: Send) -> None:
        exchange.status, headers, body = error_answer(error)
        exchange.sent = len(body)
        log.info("request refused", extra={"status": exchange.status, "reason": error.message})
        raw = [(name.encode(), value.encode()) for name, value in headers]
        raw += [*_CORS, (b"x-request-id", exchange.request_id.encode()), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": exchange.status, "headers": raw})
        await send({"type": "http.response.body", "body": body})


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


def _environ(scope: Scope, body: bytes) -> dict[str, Any]:
    server = scope.get("server") or ("localhost", 0)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(scope["raw_path"].split(b"?")[0]).decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": str(server[0]),
        "SERVER_PORT": str(server[1] or 0),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": scope["client"][0] if scope.get("client") else "",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "CONTENT_LENGTH": str(len(body)),
        BODY: body,
    }
    for name, value in scope["headers"]:
        key = name.decode("latin-1").upper().replace("-", "_")
        if key == "CONTENT_LENGTH":
            continue
        key = key if key == "CONTENT_TYPE" else f"HTTP_{key}"
        text = value.decode("latin-1")
        environ[key] = f"{environ[key]},{text}" if key in environ else text
    return environ
