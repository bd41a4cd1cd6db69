"""The server of one pod: a supervisor and its worker processes, each serving both listeners in one event loop.

The supervisor binds the ports, forks the workers after everything is imported (so they start in milliseconds and
share their code's memory), replaces those that die, and ends them on SIGTERM. It opens no database connection and
runs no thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType

from gridnode.errors import GridNodeError
from gridnode.reporting.scrape import forget_process

log = logging.getLogger(__name__)

BACKLOG = 2048
#: A worker that dies sooner than this after its start is replaced only after a pause, so that a fault can't spin.
_RESTART_PAUSE = 1.0
#: Exit code of a worker that can't work with the database's schema.
GAVE_UP = 3


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
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


class Supervisor:
    """Keeps worker processes alive until it is told to stop.

    Args:
        processes: How many.
        drain_timeout: Seconds that they get to finish what is running.
        work: What a worker does, in its own process; its result is the exit code.
    """

    def __init__(self, processes: int, drain_timeout: float, work: Callable[[], int]) -> None:
        self._processes = processes
        self._drain_timeout = drain_timeout
        self._work = work
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
                while len(self._workers) < self._processes and not self._stopping:
                    self._start_worker()
                if not self._stopping:
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
                for number in (signal.SIGTERM, signal.SIGINT):
                    # The supervisor's handlers would end this process's siblings.
                    signal.signal(number, signal.SIG_DFL)
                _end_with(supervisor)
                code = self._work()
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
        if code == GAVE_UP:
            # Every other worker would find the same, and so would each new one.
            self.gave_up = True
            self._stop(signal.SIGTERM, None)
            return
        log.error("worker process died, starting another", extra={"worker_process": process_id, "exit_code": code})
        if time.monotonic() - started < _RESTART_PAUSE:
            time.sleep(_RESTART_PAUSE)

    def _end_workers(self) -> None:
        self._stop(signal.SIGTERM, None)
        limit = time.monotonic() + self._drain_timeout + 10
        while self._workers and time.monotonic() < limit:
            process_id, _ = os.waitpid(-1, os.WNOHANG)
            self._workers.pop(process_id, None)
            if process_id == 0:
                time.sleep(0.02)
        for process_id in self._workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)


def _end_with(parent: int) -> None:
    """Let the kernel end this process when its supervisor dies, however that happens."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
