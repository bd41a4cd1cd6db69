"""One process that serves the master node: an event loop, a pool of threads, and the background services."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import uvicorn

from gridnode.security.limits import AddressLimiter, AddressLimits
from gridnode.serving.connections import guarded_http
from gridnode_operator.master.master import Master
from gridnode_operator.master.settings import MasterSettings

log = logging.getLogger(__name__)

_HEADER_TIMEOUT: Final = 10.0
_KEEP_ALIVE_SECONDS: Final = 65
_CONNECTIONS: Final = 10_000
_BACKLOG: Final = 2048
#: Seconds for an answer beyond the database's own deadline: a provider of nodes may be asked twice.
_ANSWER_MARGIN: Final = 15.0


def serve(master: Master, settings: MasterSettings, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is running.

    Args:
        master: Started and stopped here.
        settings: Of the same.
        listener: A listening socket.
    """
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(master, settings, listener))


async def _serve(master: Master, settings: MasterSettings, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(settings.threads, thread_name_prefix="request") as executor:
        bridge = master.bridge(executor, answer_seconds=settings.database_deadline + _ANSWER_MARGIN)
        server = _Server(_config(bridge, settings))

        def stop() -> None:
            bridge.stop()
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        master.start(loop)
        try:
            await server.serve(sockets=[listener])
        finally:
            master.stop()


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to :func:`serve`, which ends the event streams first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: Any, settings: MasterSettings) -> uvicorn.Config:
    limiter = AddressLimiter(AddressLimits(requests_per_second=0, connections_per_address=0, connections=_CONNECTIONS))
    return uvicorn.Config(
        app,
        http=guarded_http(_HEADER_TIMEOUT, limiter),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.drain_timeout),
    )
