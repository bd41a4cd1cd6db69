"""Bytes to a listener without any client library in between, for requests that no client library would send."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ending:
    """How an exchange ended: what came back, and after how many seconds the connection was closed by the other side.

    ``seconds`` is None if it was still open when the patience was over.
    """

    received: bytes
    seconds: float | None

    @property
    def status(self) -> int | None:
        """The status of the HTTP answer, None if there was none."""
        line = self.received.split(b"\r\n", 1)[0].split(b" ")
        return int(line[1]) if len(line) > 1 and line[0].startswith(b"HTTP/") else None

    @property
    def refused(self) -> bool:
        """Whether the other side answered 4xx, or closed without an answer."""
        return self.seconds is not None if self.status is None else 400 <= self.status < 500


@contextmanager
def connection(port: int, seconds: float = 30.0) -> Iterator[socket.socket]:
    """A TCP connection to a port of this machine."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as opened:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield opened


def exchange(port: int, pieces: Iterable[bytes], *, pause: float = 0.0, patience: float = 20.0) -> Ending:
    """Send pieces with pauses between them until the other side answers or closes, then wait for the end.

    Args:
        port: of the listener.
        pieces: may be endless.
        pause: seconds between two pieces.
        patience: seconds after which the exchange is given up.
    """
    started = time.monotonic()
    received = b""
    with connection(port, patience) as opened:
        try:
            for piece in pieces:
                opened.sendall(piece)
                answered = _read(opened, pause)
                if answered is None or time.monotonic() - started > patience:
                    break
                received += answered
                if answered:
                    break
            return _wait_for_end(opened, received, started, patience)
        except (ConnectionError, TimeoutError):
            with contextlib.suppress(OSError):
                received += opened.recv(1 << 20)
            return Ending(received, time.monotonic() - started)


def _read(opened: socket.socket, pause: float) -> bytes | None:
    """What has come within the pause; None if the other side closed."""
    opened.settimeout(max(pause, 0.0005))
    try:
        return opened.recv(1 << 20) or None
    except TimeoutError:
        return b""


def _wait_for_end(opened: socket.socket, received: bytes, started: float, patience: float) -> Ending:
    while (left := started + patience - time.monotonic()) > 0:
        if _is_whole(received):
            return Ending(received, time.monotonic() - started)
        opened.settimeout(left)
        try:
            part = opened.recv(1 << 20)
        except TimeoutError:
            break
        if not part:
            return Ending(received, time.monotonic() - started)
        received += part
    return Ending(received, None)


def _is_whole(answer: bytes) -> bool:
    """Whether an HTTP answer with a Content-Length is complete: the connection may stay open after it."""
    head, separator, body = answer.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if separator and line.startswith(b"content-length:"):
            return len(body) >= int(line.partition(b":")[2])
    return False


def websocket_handshake(opened: socket.socket, port: int, *headers: str) -> bytes:
    """Upgrade the connection to a WebSocket and give the answer's header.

    Raises:
        AssertionError: the upgrade was refused.
    """
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        "GET / HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    opened.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        byte = opened.recv(1)
        assert byte, f"the connection ended within the handshake: {answer!r}"
        answer += byte
    assert answer.startswith(b"HTTP/1.1 101"), answer
    return answer


def frame(opcode: int, payload: bytes, *, first: int = 0x80, masked: bool = True, length: int | None = None) -> bytes:
    """A WebSocket frame (RFC 6455, 5.2).

    Args:
        opcode: 0 continuation, 1 text, 2 binary, 8 close, 9 ping.
        payload: as the receiver is to see it.
        first: FIN and reserved bits.
        masked: clients must mask.
        length: what the header claims, the payload's own by default.
    """
    size = len(payload) if length is None else length
    mask_bit = 0x80 if masked else 0
    head = bytes([first | opcode])
    if size < 126:
        head += bytes([mask_bit | size])
    elif size < 1 << 16:
        head += bytes([mask_bit | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([mask_bit | 127]) + size.to_bytes(8, "big")
    # A mask of zeros is a mask, and leaves the payload readable here.
    return head + (bytes(4) if masked else b"") + payload
