"""uvicorn's protocols with what they lack against slow, many and large clients."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gridnode.errors import TooManyRequests
from gridnode.security.limits import AddressLimiter

_HEADER_LIMIT = 64 * 1024


@dataclass
class MessageMemory:
    """Bytes of WebSocket messages that all connections of a listener hold, and how many they may."""

    limit: int
    held: int = 0


def guarded_http(header_timeout: float, limiter: AddressLimiter | None) -> type[HttpToolsProtocol]:
    """An HTTP protocol that bounds connections, and the time and size of headers."""

    class GuardedProtocol(HttpToolsProtocol):
        """Closes connections that are too many, whose header takes too long, or is too large."""

        _guard: asyncio.TimerHandle | None = None
        _address: str | None = None
        _header_bytes = 0

        def connection_made(self, transport: Any) -> None:
            peer = transport.get_extra_info("peername")
            address = str(peer[0]) if peer else ""
            if limiter is not None:
                try:
                    limiter.open_connection(address)
                except TooManyRequests:
                    transport.abort()
                    return
                self._address = address
            super().connection_made(transport)
            self._await_header()

        def connection_lost(self, exc: Exception | None) -> None:
            if limiter is not None and self._address is None:
                return  # refused before anything was set up
            self._header_has_come()
            if limiter is not None and self._address is not None:
                limiter.close_connection(self._address)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._guard is not None:
                self._header_bytes += len(data)
                if self._header_bytes > _HEADER_LIMIT and self._header_is_incomplete(data):
                    self.transport.abort()
                    return
            super().data_received(data)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._guard is None:
                self._await_header()

        def on_headers_complete(self) -> None:
            self._header_has_come()
            before = self.cycle
            super().on_headers_complete()
            if self.cycle is not before:
                self.cycle.transport = cast(asyncio.Transport, _OneWrite(self.transport, self.cycle))

        def _await_header(self) -> None:
            self._header_bytes = 0
            self._guard = self.loop.call_later(header_timeout, self.transport.abort)

        def _header_has_come(self) -> None:
            if self._guard is not None:
                self._guard.cancel()
                self._guard = None

        @staticmethod
        def _header_is_incomplete(data: bytes) -> bool:
            return b"\r\n\r\n" not in data

    return GuardedProtocol


class _OneWrite:
    """The transport as one answer writes to it: the head waits for the first of the body.

    uvicorn writes them one after the other, which is two system calls, and wakes the client twice.
    """

    __slots__ = ("_cycle", "_head", "_transport")

    def __init__(self, transport: asyncio.Transport, cycle: RequestResponseCycle) -> None:
        self._transport = transport
        self._cycle = cycle
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        if self._head is not None:
            head, self._head = self._head, b""
            if head:
                self._transport.writelines([head, data])
            else:
                self._transport.write(data)
        elif self._cycle.response_started and self._cycle.scope["method"] != "HEAD":
            self._head = data
        else:
            # '100 Continue', or a head that no body follows.
            self._transport.write(data)

    def close(self) -> None:
        if self._head:
            self._transport.write(self._head)
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


def guarded_websocket(limiter: AddressLimiter | None, memory: MessageMemory) -> type[WebSocketsSansIOProtocol]:
    """A WebSocket protocol that bounds what all messages together hold, and is no longer counted when it is closed."""

    class GuardedWebSocket(WebSocketsSansIOProtocol):
        _held = 0

        def data_received(self, data: bytes) -> None:
            if memory.held + len(data) > memory.limit:
                self.transport.abort()
                return
            memory.held += len(data)
            self._held += len(data)
            super().data_received(data)

        async def receive(self) -> Any:
            # The application asks for the next message when it is done with the last one.
            self._release()
            return await super().receive()

        def connection_lost(self, exc: Exception | None) -> None:
            self._release()
            super().connection_lost(exc)
            peer = self.transport.get_extra_info("peername")
            if limiter is not None:
                limiter.close_connection(str(peer[0]) if peer else "")

        def _release(self) -> None:
            memory.held -= self._held
            self._held = 0

    return GuardedWebSocket
