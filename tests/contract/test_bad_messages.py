"""Frames and messages that no WebSocket client sends: an error or the end of the connection, and bounded memory."""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest

from tests.support import raw_socket
from tests.support.damage import MIB
from tests.support.device import WebSocketDevice
from tests.support.target import BODY_LIMIT, MEMORY_GROWTH, Target, over_websocket

pytestmark = pytest.mark.integration

FRAMES: dict[str, Callable[[], Iterator[bytes]]] = {
    "claims 10 GB": lambda: iter([raw_socket.frame(1, b"{", length=10 * 1024 * MIB)]),
    "claims 2^63 bytes": lambda: iter([raw_socket.frame(1, b"{", length=2**63)]),
    "larger than the limit": lambda: iter([raw_socket.frame(1, b"x" * (2 * BODY_LIMIT))]),
    "fragments without end": lambda: itertools.chain(
        [raw_socket.frame(1, b"x" * 65536, first=0)], itertools.repeat(raw_socket.frame(0, b"x" * 65536, first=0))
    ),
    "compressed without agreement": lambda: iter([raw_socket.frame(1, zlib.compress(b"{}"), first=0xC0)]),
    "reserved bits": lambda: iter([raw_socket.frame(1, b"{}", first=0xB0)]),
    "unknown opcode": lambda: iter([raw_socket.frame(7, b"{}")]),
    "not masked": lambda: iter([raw_socket.frame(1, b'{"type": "socket-ping"}', masked=False)]),
    "text that is not UTF-8": lambda: iter([raw_socket.frame(1, b'{"type": "\xff\xfe"}')]),
    "continuation of nothing": lambda: iter([raw_socket.frame(0, b"{}")]),
    "fragmented ping": lambda: iter([raw_socket.frame(9, b"x", first=0)]),
    "long ping": lambda: iter([raw_socket.frame(9, b"x" * 200)]),
    "close with one byte": lambda: iter([raw_socket.frame(8, b"x")]),
    "garbage": lambda: iter([b"\xde\xad\xbe\xef" * 1000]),
}


@pytest.mark.parametrize("what", FRAMES)
def test_frame_that_breaks_the_websocket_protocol_ends_the_connection(target: Target, what: str) -> None:
    port = target.node.device_port
    memory = target.node.memory()
    with raw_socket.connection(port) as opened:
        raw_socket.websocket_handshake(opened, port)
        opened.settimeout(20)
        with suppress(ConnectionError):
            for sent, piece in enumerate(FRAMES[what]()):
                opened.sendall(piece)
                assert sent < 10_000, "the node takes fragments without end"
        with suppress(ConnectionError):
            while opened.recv(65536):
                pass
    assert target.node.memory() - memory < MEMORY_GROWTH


@pytest.mark.parametrize(
    "message", [b'{"type": "socket-ping"}', b"\xff\xfe\xfd", b"", b"\0" * 1000, gzip.compress(b"{}")]
)
def test_binary_message(target: Target, message: bytes) -> None:
    """Read as text, an error, or the end of the connection."""
    with closing(WebSocketDevice(target.node.device_port)) as device:
        device.send(message)
        with suppress(ConnectionError):
            answer = device.receive()
            assert answer == {"alive": "True"} or isinstance(answer["error"], str)
            assert device.exchange({"type": "socket-ping"}) == {"alive": "True"}


def test_compressed_message_is_bounded(target: Target) -> None:
    """A client may offer permessage-deflate. If the node agrees, an unpacked message counts against the limit."""
    port = target.node.device_port
    with raw_socket.connection(port) as opened:
        answer = raw_socket.websocket_handshake(opened, port, "Sec-WebSocket-Extensions: permessage-deflate")
        agreed = b"permessage-deflate" in answer.lower()
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        bomb = packer.compress(b" " * (256 * MIB)) + packer.flush(zlib.Z_SYNC_FLUSH)
        memory = target.node.memory()
        opened.settimeout(30)
        with suppress(ConnectionError):
            opened.sendall(raw_socket.frame(1, bomb[:-4], first=0xC0 if agreed else 0x80))
            opened.recv(65536)
    assert target.node.memory() - memory < MEMORY_GROWTH


MESSAGES = [
    "",
    "\0",
    "[" * 200_000,
    '{"type":' * 100_000,
    '{"type": "model-centric/report", "data": ' + "[" * 200_000 + "]" * 200_000 + "}",
    '{"type": null, "data": {}}',
    '{"type": "model-centric/report"}',
    '{"type": "model-centric/report", "data": "x"}',
    '{"type": "model-centric/report\\u0000", "data": {}}',
    '{"type": "' + "t" * 100_000 + '", "data": {}}',
    '{"type": "socket-ping", "request_id": ' + "9" * 5000 + "}",
    '{"type": "socket-ping", "request_id": {"a": [1, 2, {"b": null}]}}',
    '{"type": "model-centric/authenticate", "data": {}, "request_id": "' + "r" * 100_000 + '"}',
    '{"data": {}}',
    "NaN",
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: repr(message[:40]))
def test_message_that_is_no_request(target: Target, message: str) -> None:
    over_websocket(target, message)
