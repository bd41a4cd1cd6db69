"""One server of the control plane as a process: started, paused, ended, and never left behind."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

_TETHER = Path(__file__).parent / "tether.py"
# Below the range that systems take ports of outgoing connections from, so that a server finds its port free again
# after a restart; below that of NodePorts too.
_PORTS = range(20000, 30000)


class StartFailed(AssertionError):
    """A server ended or was not ready in time; holds the end of its log."""


def free_port() -> int:
    """A TCP port on loopback that nobody listens on, and no outgoing connection will take."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            return port


class Starter:
    """Starts processes from a thread that lives as long as they may; see :mod:`tests.support.control_plane.tether`."""

    def __init__(self) -> None:
        # The kernel watches the thread that started a process, and a test's own may end before the process shall.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="control-plane")

    def start(self, command: Sequence[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start a command in a session of its own, so that Ctrl-C does not reach it."""
        return self._thread.submit(self._start, command, log, environment).result()

    def close(self) -> None:
        """End the thread, and with it what it has started and still runs."""
        self._thread.shutdown()

    @staticmethod
    def _start(command: Sequence[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", str(_TETHER), str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )


class ServerProcess:
    """A server that can be started, ended, paused and asked for its memory.

    Args:
        command: path and arguments, the same at each start.
        directory: for the log, ``<name>.log``.
    """

    def __init__(self, starter: Starter, command: Sequence[str], directory: Path) -> None:
        self.name = Path(command[0]).name
        self.log_path = directory / f"{self.name}.log"
        self._starter = starter
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._is_paused = False

    @property
    def pid(self) -> int:
        """Process id; the process must have been started."""
        assert self._process is not None, f"{self.name} has not been started"
        return self._process.pid

    def start(self) -> None:
        """Start it, without waiting for anything."""
        assert not self.is_running(), f"{self.name} runs already"
        environment = {"PATH": os.environ.get("PATH", os.defpath), "TMPDIR": str(self.log_path.parent)}
        self._process = self._starter.start(self._command, self.log_path, environment)
        self._is_paused = False

    def is_running(self) -> bool:
        """Whether it runs; a paused one does."""
        return self._process is not None and self._process.poll() is None

    def wait_until(self, ready: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait until ``ready`` says so; a connection that fails counts as no.

        Raises:
            StartFailed: the server ended, or the time did.
        """
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if ready():
                    return
            if not self.is_running():
                raise StartFailed(f"{self.name} ended before it was ready:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise StartFailed(f"{self.name} was not ready within {seconds} s:\n{self.log_tail()}")
            time.sleep(0.02)

    def stop(self, seconds: float = 10.0) -> None:
        """SIGTERM, and SIGKILL after ``seconds``. Harmless if it does not run."""
        self.resume()
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, as when its machine is lost. Harmless if it does not run."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        self._is_paused = False

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and answers nobody."""
        assert self.is_running(), f"{self.name} does not run"
        os.kill(self.pid, signal.SIGSTOP)
        self._is_paused = True

    def resume(self) -> None:
        """SIGCONT. Harmless if it is not paused."""
        if self._is_paused and self.is_running():
            os.kill(self.pid, signal.SIGCONT)
        self._is_paused = False

    def memory(self) -> int:
        """Resident bytes."""
        resident: int = psutil.Process(self.pid).memory_info().rss
        return resident

    def log_tail(self, characters: int = 4000) -> str:
        """The end of what it has written."""
        if not self.log_path.exists():
            return ""
        return self.log_path.read_text(encoding="utf-8", errors="replace")[-characters:]
