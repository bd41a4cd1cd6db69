"""The port that all replicas of a GridNode share."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from gridnode_operator.local import balancer as module
from gridnode_operator.local.balancer import Balancer

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a coroutine to its end, on both event loops."""

    def run_on(work: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(asyncio.wait_for(work, 20))

    return run_on


@contextlib.asynccontextmanager
async def backend(handler: Handler) -> AsyncIterator[int]:
    """A server on a free port; gives the port."""
    running: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await handler(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.gather(*running, return_exceptions=True)


@contextlib.asynccontextmanager
async def balanced(*ports: int) -> AsyncIterator[Balancer]:
    """A balancer in front of backends."""
    balancer = Balancer()
    await balancer.listen("127.0.0.1", 0)
    balancer.route(ports)
    try:
        yield balancer
    finally:
        await balancer.end(0)


async def connect(balancer: Balancer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", balancer.port)


async def ask(balancer: Balancer, text: bytes) -> bytes:
    """Send, say that this is all, and read to the end."""
    reader, writer = await connect(balancer)
    writer.write(text)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


def naming(name: bytes) -> Handler:
    """Answers its name to each line, until the client is done."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            writer.write(name)

    return handle


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


def test_what_a_client_sends_at_once_arrives(run: Any) -> None:
    async def work() -> None:
        async with backend(echo) as port, balanced(port) as balancer:
            answers = await asyncio.gather(*(ask(balancer, f"hello {number}".encode()) for number in range(100)))
            assert answers == [f"hello {number}".encode() for number in range(100)]

    run(work())


def test_large_bodies_arrive_whole_in_both_directions(run: Any) -> None:
    body = bytes(range(256)) * 40_000

    async def work() -> None:
        async with backend(echo) as port, balanced(port) as balancer:
            reader, writer = await connect(balancer)

            async def send() -> None:
                writer.write(body)
                await writer.drain()
                writer.write_eof()

            sending = asyncio.create_task(send())
            received = bytearray()
            while data := await reader.read(1 << 14):
                received += data
                await asyncio.sleep(0)
            await sending
            assert bytes(received) == body
            writer.close()

    run(work())


def test_slow_client_slows_its_backend_down(run: Any) -> None:
    """What the client does not read must not pile up here."""
    sent = 0

    async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(bytes(1 << 16))
                await writer.drain()
                sent += 1 << 16

    async def work() -> None:
        async with backend(pour) as port, balanced(port) as balancer:
            reader, writer = await connect(balancer)
            await reader.readexactly(10)
            await asyncio.sleep(0.5)
            before = sent
            await asyncio.sleep(0.5)
            assert sent == before
            writer.transport.abort()

    run(work())


def test_new_connections_go_where_the_fewest_are(run: Any) -> None:
    async def work() -> None:
        async with backend(naming(b"a")) as a, backend(naming(b"b")) as b, balanced(a, b) as balancer:
            connections = [await connect(balancer) for _ in range(10)]
            for _, writer in connections:
                writer.write(b"who?\n")
            names = [await reader.readexactly(1) for reader, _ in connections]
            assert sorted(names) == [b"a"] * 5 + [b"b"] * 5
            assert (balancer.connections(a), balancer.connections(b)) == (5, 5)
            for _, writer in connections:
                writer.close()
            while balancer.connections(a) or balancer.connections(b):
                await asyncio.sleep(0.01)

    run(work())


def test_backend_out_of_service_keeps_its_connections_and_gets_no_new_ones(run: Any) -> None:
    async def work() -> None:
        async with backend(naming(b"a")) as a, backend(naming(b"b")) as b, balanced(a) as balancer:
            reader, writer = await connect(balancer)
            writer.write(b"who?\n")
            assert await reader.readexactly(1) == b"a"

            balancer.route([b])

            assert await ask(balancer, b"who?\n") == b"b"
            writer.write(b"who?\n")
            assert await reader.readexactly(1) == b"a"
            writer.close()

    run(work())


def test_backend_that_refuses_is_passed_over(run: Any) -> None:
    async def work() -> None:
        async with backend(naming(b"a")) as port, balanced(_closed_port(), port) as balancer:
            assert await ask(balancer, b"who?\n") == b"a"

    run(work())


def test_connection_waits_for_the_first_backend(run: Any) -> None:
    async def work() -> None:
        async with backend(naming(b"a")) as port, balanced() as balancer:
            asking = asyncio.create_task(ask(balancer, b"who?\n"))
            await asyncio.sleep(0.1)
            assert not asking.done()
            balancer.route([port])
            assert await asking == b"a"

    run(work())


def test_connection_is_closed_if_no_backend_comes(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.1)

    async def work() -> None:
        async with balanced() as balancer:
            reader, writer = await connect(balancer)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            await _closed(writer)

    run(work())


def test_answer_that_comes_before_the_end_of_the_body_is_not_lost(run: Any) -> None:
    """As when a body is too large: the backend answers, and resets the connection."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(10)
        writer.write(b"too large")
        await writer.drain()
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await asyncio.sleep(0.05)
        writer.transport.abort()

    async def work() -> None:
        async with backend(refuse) as port, balanced(port) as balancer:
            reader, writer = await connect(balancer)
            writer.write(bytes(10))
            assert await reader.read() == b"too large"
            writer.close()

    run(work())


def test_answer_is_read_to_its_end_though_the_backend_has_gone(run: Any) -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(60_000))

    async def work() -> None:
        async with backend(answer) as port, balanced(port) as balancer:
            assert balancer._server is not None
            # So little that most of the answer is still in the balancer when the backend has gone.
            for listener in balancer._server.sockets:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            with socket.socket() as client:
                client.setblocking(False)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(client, ("127.0.0.1", balancer.port))
                await asyncio.sleep(0.3)
                received = 0
                while data := await loop.sock_recv(client, 1 << 16):
                    received += len(data)
            assert received == 60_000

    run(work())


def test_backend_hears_of_a_client_that_has_gone(run: Any) -> None:
    gone = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"!")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        gone.set()

    async def work() -> None:
        async with backend(listen) as port, balanced(port) as balancer:
            reader, writer = await connect(balancer)
            await reader.readexactly(1)
            writer.transport.abort()
            await gone.wait()
            while balancer.connections(port):
                await asyncio.sleep(0.01)

    run(work())


def test_listening_elsewhere_leaves_open_connections_alone(run: Any) -> None:
    async def work() -> None:
        async with backend(naming(b"a")) as port, balanced(port) as balancer:
            before = balancer.port
            reader, writer = await connect(balancer)
            await balancer.listen("127.0.0.1", 0)
            assert balancer.port != before
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", before)
            writer.write(b"who?\n")
            assert await reader.readexactly(1) == b"a"
            assert await ask(balancer, b"who?\n") == b"a"
            writer.close()

    run(work())


def test_end_waits_for_connections_and_then_closes_them(run: Any) -> None:
    async def work() -> None:
        async with backend(naming(b"a")) as port, balanced(port) as balancer:
            reader, writer = await connect(balancer)
            writer.write(b"who?\n")
            await reader.readexactly(1)
            ending = asyncio.create_task(balancer.end(0.3))
            await asyncio.sleep(0.1)
            writer.write(b"who?\n")
            assert await reader.readexactly(1) == b"a"
            await ending
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            await _closed(writer)

    run(work())


async def _closed(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


def _closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
