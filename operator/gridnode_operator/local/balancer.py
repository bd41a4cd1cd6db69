"""One port for all replicas of a GridNode, as a Service is in a cluster.

Not SO_REUSEPORT: the kernel resets the connections that wait in a listener's queue when its process closes it, so a
rolling restart would lose some. Here a replica gets no new connections before it is told to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, cast

LOOPBACK: Final = "127.0.0.1"
_BACKLOG: Final = 1024
#: Seconds that a new connection waits for a replica: while the first starts, or the only one is replaced.
_PATIENCE: Final = 15.0


class Balancer:
    """Passes TCP connections on to the backend that has the fewest."""

    def __init__(self) -> None:
        self._backends: tuple[int, ...] = ()
        self._changed = asyncio.Event()
        self._open: Counter[int] = Counter()
        self._fronts: set[_Front] = set()
        self._server: asyncio.Server | None = None
        self._listened: tuple[str, int] | None = None

    @property
    def port(self) -> int | None:
        """The port it listens on, None if it doesn't."""
        return self._listened[1] if self._listened is not None else None

    async def listen(self, host: str, port: int) -> None:
        """Listen; on any free port if it is 0. A listener from before is closed, its connections go on.

        Raises:
            OSError: it can't be bound.
        """
        server = await asyncio.get_running_loop().create_server(lambda: _Front(self), host, port, backlog=_BACKLOG)
        self.close()
        self._server = server
        self._listened = host, server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Listen no more; open connections go on."""
        if self._server is not None:
            self._server.close()
        self._server = self._listened = None

    async def end(self, seconds: float) -> None:
        """Listen no more, and let open connections end for so many seconds."""
        self.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._fronts:
                    await asyncio.sleep(0.02)
        for front in list(self._fronts):
            front.abort()

    def route(self, ports: Sequence[int]) -> None:
        """Pass new connections on to these loopback ports from now on; open ones stay where they are."""
        if tuple(ports) != self._backends:
            self._backends = tuple(ports)
            self._changed.set()
            self._changed = asyncio.Event()

    def connections(self, port: int) -> int:
        """How many connections a backend has now."""
        return self._open[port]

    async def _connect(self, front: _Front) -> None:
        """Connect a client with a backend; its connection is closed if none can be had in time."""
        try:
            async with asyncio.timeout(_PATIENCE):
                while not await self._try_backends(front):
                    await self._wait_for_change()
        except TimeoutError:
            front.abort()

    async def _try_backends(self, front: _Front) -> bool:
        loop = asyncio.get_running_loop()
        for port in sorted(self._backends, key=self._open.__getitem__):
            # Counted before it is there, or many that come at once would all go to the same backend.
            self._open[port] += 1
            back = _Back(front, partial(self._left, port))
            try:
                await loop.create_connection(partial(_same, back), LOOPBACK, port)
            except OSError:
                back.leave()
            except BaseException:
                back.leave()
                raise
            else:
                return True
        return False

    async def _wait_for_change(self) -> None:
        # A backend that refused may have been starting: it is tried again, too.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), 0.2)

    def _left(self, port: int) -> None:
        self._open[port] -= 1
        if self._open[port] <= 0:
            del self._open[port]


class _End(asyncio.Protocol):
    """One end of a connection that is passed on: it receives no faster than the other end can send."""

    transport: asyncio.Transport
    other: _End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.transport.resume_reading()


class _Front(_End):
    """The client's end."""

    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer
        self._connecting: asyncio.Task[None] | None = None
        # What came before there was a backend.
        self._early: list[bytes] = []
        self._ended_early = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._balancer._fronts.add(self)
        self._connecting = asyncio.get_running_loop().create_task(self._balancer._connect(self))

    def connect(self, back: _Back) -> None:
        """Let a backend answer."""
        self.other = back
        back.transport.writelines(self._early)
        self._early.clear()
        if self._ended_early:
            back.transport.write_eof()
        else:
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)
            return
        # Not earlier: some event loops begin to read after connection_made, whatever was said there.
        self.transport.pause_reading()
        self._early.append(data)

    def eof_received(self) -> bool:
        # It may still wait for an answer.
        self._ended_early = self.other is None
        if self.other is not None:
            self.other.transport.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._balancer._fronts.discard(self)
        if self._connecting is not None:
            self._connecting.cancel()
        if self.other is not None:
            self.other.transport.abort()

    def abort(self) -> None:
        """Close the connection at once."""
        self.transport.abort()


class _Back(_End):
    """The backend's end."""

    def __init__(self, front: _Front, left: Callable[[], None]) -> None:
        self.other = front
        self._front = front
        self._left: Callable[[], None] | None = left

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._front.transport.is_closing():
            self.transport.abort()
        else:
            self._front.connect(self)

    def data_received(self, data: bytes) -> None:
        self._front.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave()
        # What it has sent still goes to the client: an early refusal of a large body ends with a reset behind it.
        self._front.transport.close()

    def leave(self) -> None:
        """Be counted no more; repeating it does nothing."""
        left, self._left = self._left, None
        if left is not None:
            left()


def _same(back: _Back) -> _Back:
    return back
