"""One worker process: both listeners in one event loop, on sockets that the supervisor has bound."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from gridnode.app import Node
from gridnode.malloc import MallocSettings
from gridnode.security.limits import AddressLimiter, AddressLimits
from gridnode.serving.connections import MessageMemory, guarded_http, guarded_websocket
from gridnode.serving.supervisor import BACKLOG, GAVE_UP
from gridnode.settings import Settings

_KEEP_ALIVE_SECONDS = 65
# Left alone, glibc gives back each buffer of some megabytes, and the kernel hands it out again with every page zeroed:
# a tenth of a report's work. Two arenas, since each may keep as much and the threads take turns anyway.
_MALLOC = MallocSettings(trim_threshold=64 << 20, mmap_threshold=32 << 20, arenas=2)


def run_worker(settings: Settings, database_url: str, device: socket.socket, management: socket.socket) -> int:
    """Serve both listeners until SIGTERM, then finish what is running; returns the exit code."""
    _MALLOC.apply()
    node = Node(settings, database_url)
    code = 0

    def give_up() -> None:
        nonlocal code
        code = GAVE_UP
        os.kill(os.getpid(), signal.SIGTERM)

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(node, settings, device, management, give_up))
    finally:
        node.stop()
    return code


async def _serve(
    node: Node, settings: Settings, device: socket.socket, management: socket.socket, give_up: Callable[[], None]
) -> None:
    limiter = AddressLimiter(
        AddressLimits(
            requests_per_second=settings.request_rate_per_address,
            connections_per_address=settings.connection_limit_per_address,
            connections=settings.connection_limit,
            shared_addresses=settings.trusted_proxies,
        )
    )
    servers = [
        _Server(_config(node.device_listener(limiter), settings, settings.body_limit, limiter)),
        _Server(_config(node.management_listener(), settings, settings.hosting_limit, None)),
    ]

    def stop() -> None:
        node.drain()
        for server in servers:
            server.should_exit = True

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop)
    # Ctrl-C reaches the whole process group; the supervisor passes it on in its own order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    node.start(give_up)
    await asyncio.gather(
        *(server.serve(sockets=[sock]) for server, sock in zip(servers, (device, management), strict=True))
    )


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to the worker, since two of them share it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: Any, settings: Settings, body_limit: int, limiter: AddressLimiter | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=guarded_http(settings.header_timeout, limiter),
        ws=guarded_websocket(limiter, MessageMemory(2 * body_limit)),
        ws_max_size=body_limit,
        # A compressed message of a few kilobytes can be gigabytes, and floats don't compress.
        ws_per_message_deflate=False,
        ws_ping_interval=30,
        ws_ping_timeout=30,
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.drain_timeout),
    )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    import uvloop

    return uvloop.new_event_loop
