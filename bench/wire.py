"""HTTP/1.1 over one kept-alive blocking socket, with as little CPU per request as Python allows.

The load generator shares the machine with the server it measures, so it takes answers apart by hand: no header objects,
no polling, one system call for a large body. Only what the bench needs is understood: answers with a Content-Length.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from typing import Any, Final

_BUFFER: Final = 64 * 1024
_WAIT_FOR_ALL: Final = socket.MSG_WAITALL

Buffer = bytes | bytearray | memoryview


class Lost(Exception):
    """A request got no whole answer: the connection broke, or nothing came in time."""


class Connection:
    """One connection to the server, opened at the first request and again after it broke.

    Args:
        address: host and port.
        timeout: seconds that one read or write may take.
    """

    def __init__(self, address: tuple[str, int], timeout: float = 30.0) -> None:
        self.address = address
        self.connects = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self._timeout = timeout
        self._socket: socket.socket | None = None
        self._buffer = bytearray(_BUFFER)
        self._large = bytearray()

    def request(self, *parts: Buffer) -> tuple[int, memoryview]:
        """Send a whole request, given in parts that are not joined, and return the answer's status and body.

        The body is valid until the next request.

        Raises:
            Lost: there was no whole answer; the next request opens a new connection.
        """
        try:
            connected = self._socket or self._connect()
            self._send(connected, parts)
            return self._receive(connected)
        except (OSError, ValueError) as error:
            self.close()
            raise Lost(f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Close the connection; the next request opens another one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> socket.socket:
        connected = socket.create_connection(self.address, self._timeout)
        # Kernel time limits instead of Python's: those make every call a poll and a read.
        connected.settimeout(None)
        limit = struct.pack("ll", int(self._timeout), 0)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connected
        self.connects += 1
        return connected

    def _send(self, connected: socket.socket, parts: Sequence[Buffer]) -> None:
        total = sum(map(len, parts))
        sent = connected.sendmsg(parts)
        self.bytes_out += total
        if sent < total:
            connected.sendall(b"".join(parts)[sent:])

    def _receive(self, connected: socket.socket) -> tuple[int, memoryview]:
        view = memoryview(self._buffer)
        filled = 0
        while (stop := self._buffer.find(b"\r\n\r\n", 0, filled)) < 0:
            received = connected.recv_into(view[filled:])
            if not received:
                raise ValueError("the server closed the connection" + (" inside a header" if filled else ""))
            filled += received
        head = bytes(view[:stop]).lower()
        status = int(head[9:12])
        length = content_length(head)
        start = stop + 4
        self.bytes_in += start + length
        body = self._body(connected, view, start, filled, length)
        if b"\r\nconnection: close" in head:
            self.close()
        return status, body

    def _body(self, connected: socket.socket, view: memoryview, start: int, filled: int, length: int) -> memoryview:
        present = filled - start
        if present > length:
            raise ValueError(f"{present - length} bytes follow an answer of {length}")
        if length <= len(view) - start:
            target = view[start : start + length]
        else:
            if len(self._large) != length:
                self._large = bytearray(length)
            target = memoryview(self._large)
            target[:present] = view[start:filled]
        while present < length:
            received = connected.recv_into(target[present:], length - present, _WAIT_FOR_ALL)
            if not received:
                raise ValueError(f"the server closed the connection after {present} of {length} bytes")
            present += received
        return target


def content_length(head: bytes) -> int:
    """The Content-Length of an answer's header in lower case."""
    start = head.find(b"\r\ncontent-length:")
    if start < 0:
        raise ValueError("the answer has no Content-Length")
    return int(head[start + 17 :].split(b"\r", 1)[0])


def post(path: str, body_length: int, host: str = "bench", extra: str = "") -> bytes:
    """The header of a POST whose body has ``body_length`` bytes."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{extra}"
        f"Content-Length: {body_length}\r\n\r\n"
    ).encode()


def get(path: str, host: str = "bench", extra: str = "") -> bytes:
    """A whole GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{extra}\r\n".encode()


def call(
    address: tuple[str, int], path: str, document: Any = None, *, token: str | None = None, timeout: float = 120.0
) -> tuple[int, bytes]:
    """One request on a connection of its own: POST with ``document`` as JSON, GET without."""
    extra = f"Authorization: Bearer {token}\r\n" if token else ""
    connection = Connection(address, timeout)
    try:
        if document is None:
            status, body = connection.request(get(path, extra=extra))
        else:
            payload = json.dumps(document).encode()
            status, body = connection.request(post(path, len(payload), extra=extra), payload)
        return status, bytes(body)
    finally:
        connection.close()


def float_tensors(state: Buffer) -> list[memoryview]:
    """The contents of a State's float32 tensors, in order, without copying: the bench's own reading of the format.

    Raises:
        ValueError: the bytes are no such State.
    """
    view = memoryview(state)
    tensors = []
    for number, value in _fields(view):
        if number != 2:
            continue
        ((kind, tensor),) = _fields(value)
        if kind == 2:
            tensor = _only(tensor, 2)
        tensors.append(_only(_only(tensor, 2), 22))
    return tensors


def _only(message: memoryview, wanted: int) -> memoryview:
    found = [value for number, value in _fields(message) if number == wanted]
    if len(found) != 1:
        raise ValueError(f"field {wanted} stands {len(found)} times in a message")
    return found[0]


def _fields(message: memoryview) -> list[tuple[int, memoryview]]:
    """The length-delimited fields of a message."""
    found = []
    position = 0
    while position < len(message):
        header, position = _varint(message, position)
        value, position = _varint(message, position)
        if header & 7 == 2:
            if position + value > len(message):
                raise ValueError("a message is cut off")
            found.append((header >> 3, message[position : position + value]))
            position += value
        elif header & 7:
            raise ValueError(f"wire type {header & 7} is not expected in a State of float32")
    return found


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(message):
            raise ValueError("a message is cut off")
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
