"""Phones that only wait: ``python -m bench.idle_sockets HOST PORT COUNT`` holds so many open WebSockets.

It opens them, lets each ask ``socket-ping`` once, prints ``{"held": n}``, answers the server's pings, and when its
standard input ends asks on each once more and prints ``{"alive": n}``.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import struct
import sys
from typing import Final, cast

_PING: Final = json.dumps({"type": "socket-ping", "data": {}}).encode()
_TEXT, _CLOSE, _PING_FRAME, _PONG_FRAME = 0x1, 0x8, 0x9, 0xA
_OPENING_AT_ONCE: Final = 50
_TIMEOUT: Final = 30.0


class IdleSocket(asyncio.Protocol):
    """One WebSocket, client side: what RFC 6455 asks for to keep it open, and questions without other traffic."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._buffer = bytearray()
        self._open = False
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self._transport = cast(asyncio.Transport, transport)
        key = base64.b64encode(os.urandom(16)).decode()
        self._transport.write(
            f"GET / HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        """Take the answer to the upgrade, then frames."""
        self._buffer += data
        if not self._open:
            stop = self._buffer.find(b"\r\n\r\n")
            if stop < 0:
                return
            if not self._buffer.startswith(b"HTTP/1.1 101"):
                self._fail(f"no upgrade: {bytes(self._buffer[:60])!r}")
                return
            self._open = True
            del self._buffer[: stop + 4]
            self._give(b"open")
        while self._frame():
            pass

    def connection_lost(self, exc: Exception | None) -> None:
        """The server closed it: whoever waits for an answer hears of that."""
        self._transport = None
        self._fail(f"closed: {exc}")

    async def answer(self) -> bytes:
        """The next answer.

        Raises:
            ConnectionError: the socket was closed or refused.
            TimeoutError: nothing came.
        """
        async with asyncio.timeout(_TIMEOUT):
            answer = await self._answer
        self._answer = asyncio.get_running_loop().create_future()
        return answer

    async def ask(self) -> bool:
        """Whether the server still answers ``socket-ping``."""
        if self._transport is None:
            return False
        self._send(_TEXT, _PING)
        try:
            return bool(json.loads(await self.answer()) == {"alive": "True"})
        except (ConnectionError, TimeoutError, ValueError):
            return False

    def _frame(self) -> bool:
        """Take one whole frame out of the buffer, if there is one."""
        if len(self._buffer) < 2:
            return False
        length, start = self._buffer[1] & 0x7F, 2
        if length == 126:
            if len(self._buffer) < 4:
                return False
            (length,), start = struct.unpack_from("!H", self._buffer, 2), 4
        if length == 127 or len(self._buffer) < start + length:
            return False
        kind, payload = self._buffer[0] & 0x0F, bytes(self._buffer[start : start + length])
        del self._buffer[: start + length]
        if kind == _PING_FRAME:
            self._send(_PONG_FRAME, payload)
        elif kind == _TEXT:
            self._give(payload)
        elif kind == _CLOSE and self._transport is not None:
            self._transport.close()
        return True

    def _send(self, kind: int, payload: bytes) -> None:
        # The mask may be any, so none is applied: 0.
        if self._transport is not None:
            self._transport.write(bytes((0x80 | kind, 0x80 | len(payload))) + b"\0\0\0\0" + payload)

    def _give(self, answer: bytes) -> None:
        if not self._answer.done():
            self._answer.set_result(answer)

    def _fail(self, reason: str) -> None:
        if not self._answer.done():
            self._answer.set_exception(ConnectionError(reason))
            # Nobody may be waiting: an idle socket that was closed is found at the last question.
            self._answer.exception()


async def hold(host: str, port: int, count: int) -> None:
    """Open ``count`` sockets, wait for the end of standard input, and count those that still answer."""
    gate = asyncio.Semaphore(_OPENING_AT_ONCE)

    async def open_one() -> IdleSocket | None:
        async with gate:
            loop = asyncio.get_running_loop()
            try:
                _, opened = await loop.create_connection(lambda: IdleSocket(host), host, port)
                await opened.answer()
            except (OSError, TimeoutError):
                return None
            return opened if await opened.ask() else None

    sockets = [each for each in await asyncio.gather(*(open_one() for _ in range(count))) if each is not None]
    print(json.dumps({"held": len(sockets)}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    answers = []
    for start in range(0, len(sockets), _OPENING_AT_ONCE):
        answers += await asyncio.gather(*(each.ask() for each in sockets[start : start + _OPENING_AT_ONCE]))
    print(json.dumps({"alive": sum(answers)}), flush=True)


if __name__ == "__main__":
    asyncio.run(hold(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
