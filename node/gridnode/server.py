"""The server of one pod: a supervisor and its worker processes, each serving both listeners in one event loop.

The supervisor binds the ports, forks the workers after everything is imported (so they start in milliseconds and
share their code's memory), replaces those that die, and ends them on SIGTERM. It opens no database connection and
runs no thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gridnode.app import Node
from gridnode.errors import GridNodeError, TooManyRequests
from gridnode.reporting.scrape import forget_process
from gridnode.security.limits import AddressLimiter, AddressLimits
from gridnode.settings import Settings

log = logging.getLogger(__name__)

_HEADER_LIMIT = 64 * 1024
_KEEP_ALIVE_SECONDS = 65
_BACKLOG = 2048
#: A worker that dies sooner than this after its start is replaced only after a pause, so that a fault can't spin.
_RESTART_PAUSE = 1.0
#: Exit code of a worker that can't work with the database's schema.
_GAVE_UP = 3


class PortInUse(GridNodeError):
    """A listener's address can't be bound."""


def bind(host: str, port: int) -> socket.socket:
    """Bind a listening socket.

    Raises:
        PortInUse: names the address and the reason.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise PortInUse(f"can't listen on {host}:{port}: {error.strerror}. Is another node running there?") from None
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


class Supervisor:
    """Keeps ``settings.worker_processes`` workers alive until it is told to stop."""

    def __init__(self, settings: Settings, database_url: str, device: socket.socket, management: socket.socket) -> None:
        self._settings = settings
        self._database_url = database_url
        self._device = device
        self._management = management
        self._workers: dict[int, float] = {}
        self._stopping = False
        #: Whether a worker found that this release can't work with the database.
        self.gave_up = False

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; returns when all workers have ended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        try:
            while not self._stopping:
                while len(self._workers) < self._settings.worker_processes and not self._stopping:
                    self._start_worker()
                self._wait_for_a_death()
        finally:
            self._end_workers()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        for process_id in self._workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGTERM)

    def _start_worker(self) -> None:
        supervisor = os.getpid()
        process_id = os.fork()
        if process_id == 0:
            # os._exit: a fork must not run the cleanup that its parent registered (it would stop the embedded
            # database).
            code = 1
            try:
                _end_with(supervisor)
                code = run_worker(self._settings, self._database_url, self._device, self._management)
            except Exception:
                log.exception("worker process failed")
            finally:
                logging.shutdown()
                sys.stdout.flush()
                os._exit(code)
        self._workers[process_id] = time.monotonic()
        log.info("worker process started", extra={"worker_process": process_id})

    def _wait_for_a_death(self) -> None:
        try:
            process_id, status = os.wait()
        except (InterruptedError, ChildProcessError):
            return
        started = self._workers.pop(process_id, None)
        if started is None:
            return
        forget_process(process_id)
        if self._stopping:
            return
        code = os.waitstatus_to_exitcode(status)
        if code == _GAVE_UP:
            # Every other worker would find the same, and so would each new one.
            self.gave_up = True
            self._stop(signal.SIGTERM, None)
            return
        log.error("worker process died, starting another", extra={"worker_process": process_id, "exit_code": code})
        if time.monotonic() - started < _RESTART_PAUSE:
            time.sleep(_RESTART_PAUSE)

    def _end_workers(self) -> None:
        self._stop(signal.SIGTERM, None)
        limit = time.monotonic() + self._settings.drain_timeout + 10
        while self._workers and time.monotonic() < limit:
            process_id, _ = os.waitpid(-1, os.WNOHANG)
            self._workers.pop(process_id, None)
            if process_id == 0:
                time.sleep(0.02)
        for process_id in self._workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)


def run_worker(settings: Settings, database_url: str, device: socket.socket, management: socket.socket) -> int:
    """Serve both listeners until SIGTERM, then finish what is running; returns the exit code."""
    node = Node(settings, database_url)
    code = 0

    def give_up() -> None:
        nonlocal code
        code = _GAVE_UP
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
        http=_http_protocol(settings.header_timeout, limiter),
        ws=_websocket_protocol(limiter),
        ws_max_size=body_limit,
        # A compressed message of a few kilobytes can be gigabytes, and floats don't compress.
        ws_per_message_deflate=False,
        ws_ping_interval=30,
        ws_ping_timeout=30,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.drain_timeout),
    )


def _http_protocol(header_timeout: float, limiter: AddressLimiter | None) -> type[HttpToolsProtocol]:
    """uvicorn's HTTP protocol with what it lacks against slow and many clients."""

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
            super().on_headers_complete()

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


def _websocket_protocol(limiter: AddressLimiter | None) -> type[WebSocketsSansIOProtocol]:
    """uvicorn's WebSocket protocol, giving back the connection that the HTTP protocol counted before the upgrade."""

    class CountedWebSocket(WebSocketsSansIOProtocol):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            peer = self.transport.get_extra_info("peername")
            if limiter is not None:
                limiter.close_connection(str(peer[0]) if peer else "")

    return CountedWebSocket


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    import uvloop

    return uvloop.new_event_loop


def _end_with(parent: int) -> None:
    """Let the kernel end this process when its supervisor dies, however that happens."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
