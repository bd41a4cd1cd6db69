"""The smallest applications that receive and send what a node does, to compare web servers with."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

MODEL: Final = bytes(range(256)) * 4871  # 1.2 MB, the recorded MLP's size
SMALL: Final = json.dumps({"status": "success"}).encode()
_PING: Final = json.dumps({"alive": "True"})

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


async def asgi(scope: Event, receive: Receive, send: Send) -> None:
    """GET answers the model, POST takes any body and answers a small object, a WebSocket answers each message."""
    if scope["type"] == "http":
        await _http(scope, receive, send)
    elif scope["type"] == "websocket":
        await _websocket(receive, send)
    else:
        await _lifespan(receive, send)


async def _http(scope: Event, receive: Receive, send: Send) -> None:
    parts = []
    more = True
    while more:
        event = await receive()
        parts.append(event.get("body", b""))
        more = event.get("more_body", False)
    answer = MODEL if scope["method"] == "GET" else answer_to(b"".join(parts))
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def _websocket(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": _PING})


async def _lifespan(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


def wsgi(environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]) -> Iterable[bytes]:
    """The same as :func:`asgi` but for WebSockets, which WSGI does not know."""
    answer = MODEL
    if environ["REQUEST_METHOD"] == "POST":
        answer = answer_to(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    headers = [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(answer)))]
    start_response("200 OK", headers)
    return [answer]


def answer_to(body: bytes) -> bytes:
    """The answer to a POST, which depends on the body having arrived whole."""
    return SMALL if body[-1:] == b"}" else b"{}"
