"""One replica of a node: ``gridnode serve`` as a process group of its own, watched like a pod."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from gridnode_operator.local.balancer import LOOPBACK
from gridnode_operator.local.data_directory import DataDirectory, end_group

#: Between taking a replica out of service and SIGTERM: what was passed on before is accepted by then.
_ROUTE_GRACE: Final = 0.3
#: The node's supervisor kills its workers 10 seconds after the drain timeout.
_STOP_SECONDS: Final = 15.0
_PROBE_TIMEOUT: Final = 5.0
_PROBE_WHILE_STARTING: Final = 0.2
_PROBE_IN_SERVICE: Final = 1.0
_LOG_LINES: Final = 5
_LOG_TAIL_BYTES: Final = 8192


class Replica:
    """A replica with ports of its own, from its start to its end.

    Args:
        template: Of what it is made; a replica of another template is to be replaced.
        environment: Without the addresses it listens on.
        log_file: Where its processes write.
        data: Told of the process while it runs.
        changed: Called when it becomes ready or unready, and when it has ended.
    """

    def __init__(
        self,
        template: str,
        environment: Mapping[str, str],
        log_file: Path,
        data: DataDirectory,
        changed: Callable[[], None],
    ) -> None:
        self.template = template
        self.device_port, self.management_port = _free_ports(2)
        self.ready = False
        self.was_ready = False
        self.leaving = False
        self.started_at = time.monotonic()
        self.log_file = log_file
        self.exit_code: int | None = None
        self._environment = {**environment, **listen_addresses(self.device_port, self.management_port)}
        self._data = data
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def process_id(self) -> int | None:
        """Id of its supervisor, None before the start."""
        return self._process.pid if self._process is not None else None

    @property
    def ended(self) -> bool:
        """Whether its processes are gone."""
        return self.exit_code is not None

    @property
    def lived(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self.started_at

    async def start(self) -> None:
        """Start its processes; does not wait until it is ready."""
        with self.log_file.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gridnode", "serve",
                env=self._environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                # Ctrl-C on the terminal is for `gridnode up`, which then stops everything in good order.
                start_new_session=True,
            )  # fmt: skip
        self._data.remember_process(self._process.pid)
        self._watch = asyncio.create_task(self._observe(self._process))

    async def stop(self, drain_timeout: float) -> None:
        """Let it end its requests and stop; kill it if that takes too long."""
        self.leaving = True
        if self._process is None or self._watch is None:
            return
        if not self.ended:
            await asyncio.sleep(_ROUTE_GRACE)
        if not self.ended:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        done, _ = await asyncio.wait([self._watch], timeout=drain_timeout + _STOP_SECONDS)
        if not done:
            self.kill()
            await self._watch

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None and not self.ended:
            end_group(self._process.pid)

    async def _observe(self, process: asyncio.subprocess.Process) -> None:
        end = asyncio.create_task(process.wait())
        while not end.done():
            ready = not self.leaving and await answers_ready(self.management_port)
            if end.done():
                break
            if ready != self.ready:
                self.ready = ready
                self.was_ready = self.was_ready or ready
                self._changed()
            await asyncio.wait([end], timeout=_PROBE_IN_SERVICE if ready else _PROBE_WHILE_STARTING)
        # Workers whose supervisor was killed end by themselves on Linux, elsewhere they don't.
        if end.result() < 0:
            end_group(process.pid)
        self.ready = False
        self.exit_code = end.result()
        self._data.forget_process(process.pid)
        self._changed()


async def answers_ready(port: int) -> bool:
    """Whether what listens on a port of this machine says that it is ready."""
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            try:
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
                return (await reader.readline()).startswith(b"HTTP/1.1 200 ")
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return False


def last_log_lines(log_file: Path) -> str:
    """The end of what a process wrote, for people."""
    try:
        with log_file.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            lines = log.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(_readable(line) for line in lines[-_LOG_LINES:])


def listen_addresses(device_port: int, management_port: int) -> dict[str, str]:
    """The settings in which a process differs from a pod, which has an address of its own."""
    return {
        "GRIDNODE_HOST": LOOPBACK,
        "GRIDNODE_DEVICE_PORT": str(device_port),
        "GRIDNODE_MANAGEMENT_HOST": LOOPBACK,
        "GRIDNODE_MANAGEMENT_PORT": str(management_port),
    }


def _readable(line: str) -> str:
    """What a line of JSON says; of a traceback only the end, which tells the reason."""
    try:
        entry = json.loads(line)
        reason = str(entry.get("exception", "")).strip().splitlines()[-1:]
        return ": ".join([str(entry["message"]), *reason])
    except (ValueError, KeyError, TypeError, AttributeError):
        return line


def _free_ports(count: int) -> list[int]:
    """Free ports, all different because all are held until the last is found.

    Somebody may still take one before the replica does; it ends then, and the next one gets others.
    """
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]
