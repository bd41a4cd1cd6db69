"""Connections that are slow, endless or no HTTP: cut off in bounded time, and nobody else is kept out by them."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, closing

import pytest

from tests.support import raw_socket
from tests.support.damage import MIB
from tests.support.device import PREFIX, HttpDevice, WebSocketDevice, authenticate
from tests.support.target import BODY_LIMIT, BODY_SECONDS, BOUND, HEADER_SECONDS, Target

pytestmark = pytest.mark.integration

HOST = b"Host: 127.0.0.1\r\n"


def head(target: Target, event: str, *headers: bytes) -> bytes:
    return f"POST {PREFIX}{event} HTTP/1.1\r\n".encode() + HOST + b"".join(each + b"\r\n" for each in headers) + b"\r\n"


@pytest.mark.parametrize("length", [10 * 1024 * MIB, 2**63, 2**64, 10**40])
def test_huge_content_length_is_refused_without_waiting_for_the_body(target: Target, length: int) -> None:
    started = time.monotonic()
    ending = raw_socket.exchange(
        target.node.device_port, [head(target, "report", f"Content-Length: {length}".encode()), b"{" * 1000]
    )
    assert ending.refused
    assert time.monotonic() - started < BOUND
    if length == 10 * 1024 * MIB:
        assert ending.status == 413


@pytest.mark.parametrize("value", [b"-1", b"1.5", b"abc", b"1, 2", b"0x10", b"", b"1\r\nContent-Length: 2"])
def test_unreadable_content_length(target: Target, value: bytes) -> None:
    ending = raw_socket.exchange(
        target.node.device_port, [head(target, "report", b"Content-Length: " + value), b"{}"], patience=15
    )
    assert ending.refused, ending


def test_slow_header_is_cut_off(target: Target) -> None:
    """Slowloris: one byte at a time, for ever."""
    pieces = itertools.chain([b"POST /model-centric/report HTTP/1.1\r\n"], itertools.repeat(b"X-A: b\r\n"))
    ending = raw_socket.exchange(target.node.device_port, pieces, pause=0.2, patience=HEADER_SECONDS + 10)
    assert ending.refused, ending
    assert ending.seconds is not None
    assert ending.seconds < HEADER_SECONDS + 5


def test_silent_connection_is_closed(target: Target) -> None:
    ending = raw_socket.exchange(target.node.device_port, [b"P"], patience=HEADER_SECONDS + 10)
    assert ending.refused, ending


def test_slow_body_is_cut_off(target: Target) -> None:
    pieces = itertools.chain([head(target, "report", b"Content-Length: 1000000")], itertools.repeat(b" "))
    ending = raw_socket.exchange(target.node.device_port, pieces, pause=0.1, patience=BODY_SECONDS + 10)
    assert ending.refused, ending
    assert ending.seconds is not None
    assert ending.seconds < BODY_SECONDS + 5


def slow_starts(target: Target) -> dict[str, Callable[[socket.socket], None]]:
    """Ways to begin something that is never ended."""
    port = target.node.device_port

    def websocket_message(opened: socket.socket) -> None:
        raw_socket.websocket_handshake(opened, port)
        opened.sendall(raw_socket.frame(1, b"{", length=BODY_LIMIT))

    return {
        "half a header": lambda opened: opened.sendall(head(target, "report")[:40]),
        "a small body": lambda opened: opened.sendall(head(target, "report", b"Content-Length: 100") + b"{"),
        "a large body": lambda opened: opened.sendall(
            head(target, "report", b"Content-Length: %d" % BODY_LIMIT) + b"{"
        ),
        "a large WebSocket message": websocket_message,
    }


@pytest.mark.parametrize("what", ["half a header", "a small body", "a large body", "a large WebSocket message"])
def test_two_hundred_slow_connections_don_t_keep_others_out(target: Target, what: str) -> None:
    """Each holds a connection for as long as it may; a phone is served as quickly as ever meanwhile."""
    begin = slow_starts(target)[what]
    with ExitStack() as slow:
        for _ in range(200):
            begin(slow.enter_context(raw_socket.connection(target.node.device_port)))
        times = []
        for _ in range(20):
            started = time.monotonic()
            with closing(HttpDevice(target.node.device_port)) as device:
                authenticate(device, target.hosting.name)
            with closing(WebSocketDevice(target.node.device_port)) as device:
                authenticate(device, target.hosting.name)
            times.append(time.monotonic() - started)
        assert max(times) < 2.0


def test_chunked_body_without_end_is_cut_off(target: Target) -> None:
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    pieces = itertools.chain([head(target, "report", b"Transfer-Encoding: chunked")], itertools.repeat(chunk))
    ending = raw_socket.exchange(target.node.device_port, pieces, patience=30)
    assert ending.refused, ending.received[:200]


BAD_CHUNKS = [
    b"zz\r\n",
    b"-1\r\n",
    b"ffffffffffffffffff\r\n",
    b"5\r\nab",
    b"\r\n",
    b"1" * 100_000,
    b"0\r\n" + b"X: y\r\n" * 50_000,
]


@pytest.mark.parametrize("chunk", BAD_CHUNKS, ids=lambda chunk: repr(chunk[:12]))
def test_bad_chunk(target: Target, chunk: bytes) -> None:
    pieces = [head(target, "report", b"Transfer-Encoding: chunked"), chunk]
    ending = raw_socket.exchange(target.node.device_port, pieces, patience=BODY_SECONDS + 10)
    assert ending.refused, ending.received[:200]


HEADS: dict[str, bytes] = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100 + b"\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/3.0": b"GET / HTTP/3.0\r\n" + HOST + b"\r\n",
    "no version": b"POST /model-centric/report\r\n\r\n",
    "long method": b"X" * 100_000 + b" / HTTP/1.1\r\n" + HOST + b"\r\n",
    "long path": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "long header": b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 100_000 + b"\r\n",
    "NUL in a header": b"GET / HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n",
    "NUL in the path": b"GET /model-centric/get-model\0 HTTP/1.1\r\n" + HOST + b"\r\n",
    "not UTF-8 in the path": b"GET /model-centric/\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
    "escaped garbage in the path": b"GET /model-centric/%ff%00%fe HTTP/1.1\r\n" + HOST + b"\r\n",
    "bad escape": b"GET /model-centric/get-model?worker_id=%zz&model_id=%u1234 HTTP/1.1\r\n" + HOST + b"\r\n",
    "long query": b"GET /model-centric/get-model?" + b"a=b&" * 10_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "two transfer encodings": b"POST /model-centric/report HTTP/1.1\r\n" + HOST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "unknown transfer encoding": b"POST /model-centric/report HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\n",
    "folded header": b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("what", HEADS)
def test_head_that_is_no_request(target: Target, what: str) -> None:
    ending = raw_socket.exchange(target.node.device_port, [HEADS[what]], patience=HEADER_SECONDS + 10)
    assert ending.refused, ending.received[:200]
