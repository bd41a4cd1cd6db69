"""Between the ASGI server and the Flask application: bodies, threads, downloads, and streams that need no thread.

A body is read on the event loop and only a whole one is given to a thread. An event stream is authorized by the Flask
application like any request; then it is the event loop's, so that a thousand viewers cost no thread at all.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from concurrent.futures import Executor
from typing import Any, Final
from wsgiref.types import WSGIApplication

import msgspec

from gridnode.errors import GridNodeError, InvalidRequest, TooLarge, Unavailable
from gridnode.logs import request_scope
from gridnode.protocol.wsgi import make_environ
from gridnode.security.limits import Network, client_address
from gridnode_operator.master.errors import retry_after, status_of
from gridnode_operator.master.live.viewers import Filter, Viewers

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: environ keys: the caller's address, and what the Flask application asks of the bridge: to stream
#: changes that pass a :class:`Filter`, or an iterator's pieces.
ADDRESS: Final = "gridnode.address"
WATCH: Final = "gridnode.watch"
PIECES: Final = "gridnode.pieces"
#: Answered without a thread.
HEALTH_PATH: Final = "/healthz"

_OK: Final = 200
_BODY_SECONDS: Final = 30.0
_KEEP_ALIVE: Final = 15.0
#: A stream ends after so long and its viewer comes again: a key that was revoked meanwhile is refused then.
_STREAM_SECONDS: Final = 900.0
_FIRST: Final = b"retry: 2000\nevent: ready\ndata: {}\n\n"
_COMMENT: Final = b": still here\n\n"


class Bridge:
    """An ASGI application over a Flask application.

    Args:
        wsgi: The Flask application.
        executor: Where it runs.
        viewers: Open streams.
        body_limit: Bytes that a body may have.
        answer_seconds: After which an answer is given up with 503.
        trusted_proxies: Whose X-Forwarded-For is believed.
    """

    def __init__(
        self,
        wsgi: WSGIApplication,
        executor: Executor,
        viewers: Viewers,
        *,
        body_limit: int,
        answer_seconds: float,
        trusted_proxies: tuple[Network, ...] = (),
    ) -> None:
        self._wsgi = wsgi
        self._executor = executor
        self._viewers = viewers
        self._body_limit = body_limit
        self._answer_seconds = answer_seconds
        self._trusted_proxies = trusted_proxies
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End all streams: call it on the event loop before the server stops."""
        self._stopping.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == HEALTH_PATH:
            # Here, and not in a thread: all of them may be waiting for the database.
            await _send_json({"status": "alive"}, _OK, send)
            return
        with request_scope() as request_id:
            exchange = _Exchange(request_id)
            try:
                body = await self._read_body(scope, receive)
                environ = _environ(scope, body, self._client(scope))
                pieces = await self._answer(environ, exchange)
            except _Disconnected:
                return
            except GridNodeError as error:
                await _refuse(error, exchange, send)
                return
            watches = WATCH in environ and exchange.status == _OK and scope["method"] == "GET"
            if watches:
                # Flask counted the bytes of an answer that has only begun.
                exchange.headers = [each for each in exchange.headers if each[0].lower() != "content-length"]
            await send(exchange.start())
            if watches:
                await self._watch(environ[WATCH], receive, send)
            else:
                await self._send_pieces(pieces, send, head=scope["method"] == "HEAD")

    def _client(self, scope: Scope) -> str:
        peer = scope["client"][0] if scope.get("client") else ""
        if not self._trusted_proxies:
            return str(peer)
        forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        return client_address(peer, ", ".join(forwarded) or None, self._trusted_proxies)

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise _Disconnected
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self._body_limit:
                        raise TooLarge(f"the body is larger than {self._body_limit} bytes")
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise InvalidRequest(f"the body did not arrive within {_BODY_SECONDS:g} s") from None

    async def _answer(self, environ: dict[str, Any], exchange: _Exchange) -> Iterable[bytes]:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._answer_seconds):
                return await loop.run_in_executor(self._executor, self._run, environ, exchange)
        except TimeoutError:
            raise Unavailable("the database does not answer, try again in a moment", retry_after=5) from None

    def _run(self, environ: dict[str, Any], exchange: _Exchange) -> Iterable[bytes]:
        """Call the Flask application, in a thread of the pool."""
        with request_scope(exchange.request_id):
            result = self._wsgi(environ, exchange.start_response)
            if PIECES in environ:
                return result
            try:
                return list(result)
            finally:
                close = getattr(result, "close", None)
                if close is not None:
                    close()

    async def _send_pieces(self, pieces: Iterable[bytes], send: Send, *, head: bool) -> None:
        if isinstance(pieces, list):
            await send({"type": "http.response.body", "body": b"" if head else b"".join(pieces)})
            return
        loop = asyncio.get_running_loop()
        iterator: Iterator[bytes] = iter(pieces)
        try:
            while not head and (piece := await loop.run_in_executor(self._executor, next, iterator, b"")):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except Exception:
            # Too late for another status: without its end the client knows that the content is not whole.
            log.warning("a download broke off", exc_info=True)
            raise
        finally:
            close = getattr(pieces, "close", None)
            if close is not None:
                await loop.run_in_executor(self._executor, close)
        await send({"type": "http.response.body", "body": b""})

    async def _watch(self, wanted: Filter, receive: Receive, send: Send) -> None:
        viewer = self._viewers.join(wanted)
        gone = asyncio.ensure_future(_disconnection(receive))
        ends_at = time.monotonic() + _STREAM_SECONDS
        try:
            await send({"type": "http.response.body", "body": _FIRST, "more_body": True})
            while not gone.done() and not self._stopping.is_set() and time.monotonic() < ends_at:
                arrived = asyncio.ensure_future(viewer.take(_KEEP_ALIVE))
                stopping = asyncio.ensure_future(self._stopping.wait())
                await asyncio.wait({arrived, gone, stopping}, return_when=asyncio.FIRST_COMPLETED)
                stopping.cancel()
                if not arrived.done():
                    arrived.cancel()
                    break
                message = arrived.result() or _COMMENT
                await send({"type": "http.response.body", "body": message, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()
            self._viewers.leave(viewer)


class _Disconnected(Exception):
    """The client went away before its body was complete."""


class _Exchange:
    """One request's answer on its way from Flask."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.status = 500
        self.headers: list[tuple[str, str]] = []

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        self.status = int(status[:3])
        self.headers = headers
        return lambda data: None

    def start(self) -> Message:
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in self.headers]
        headers.append((b"x-request-id", self.request_id.encode()))
        return {"type": "http.response.start", "status": self.status, "headers": headers}


async def _disconnection(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_json(value: object, status: int, send: Send) -> None:
    body = msgspec.json.encode(value)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _refuse(error: GridNodeError, exchange: _Exchange, send: Send) -> None:
    body = msgspec.json.encode({"error": error.message})
    exchange.status = status_of(error)
    exchange.headers = [
        ("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close"),
    ]  # fmt: skip
    after = retry_after(error)
    if after is not None:
        exchange.headers.append(("retry-after", after))
    await send(exchange.start())
    await send({"type": "http.response.body", "body": body})


def _environ(scope: Scope, body: bytes, address: str) -> dict[str, Any]:
    """As the node's, for one process, and with the address that a trusted proxy tells."""
    own = {"REMOTE_ADDR": address, "wsgi.multiprocess": False, ADDRESS: address}
    return {**make_environ(scope, body), **own}
