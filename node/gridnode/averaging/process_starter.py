"""Starts child processes from a thread that lives as long as the node's process.

Linux ties "kill me when my parent dies" (PR_SET_PDEATHSIG) to the *thread* that started the child. Threads of a web
server come and go; a child that one of them started would be killed with it.
"""

from __future__ import annotations

import os
import queue
import subprocess
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future


class ProcessStarter:
    """Starts processes in one thread of its own. Thread safe, and usable after a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: queue.SimpleQueue[tuple[Future[subprocess.Popen[bytes]], Sequence[str], Mapping[str, str]]]
        self._owner = -1
        os.register_at_fork(after_in_child=self._renew_lock)

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a program in a session and process group of its own, in the root folder, with pipes to it.

        Raises:
            OSError: it can't be started.
        """
        started: Future[subprocess.Popen[bytes]] = Future()
        with self._lock:
            if self._owner != os.getpid():
                self._requests = queue.SimpleQueue()
                threading.Thread(target=self._serve, args=[self._requests], name="process-starter", daemon=True).start()
                self._owner = os.getpid()
        self._requests.put((started, command, environment))
        return started.result()

    def _renew_lock(self) -> None:
        # Another thread may have held the lock at the moment of the fork.
        self._lock = threading.Lock()

    @staticmethod
    def _serve(
        requests: queue.SimpleQueue[tuple[Future[subprocess.Popen[bytes]], Sequence[str], Mapping[str, str]]],
    ) -> None:
        while True:
            started, command, environment = requests.get()
            try:
                started.set_result(_start(command, environment))
            except BaseException as error:
                started.set_exception(error)


def _start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - the command is this program's own
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env=dict(environment),
        cwd="/",
        close_fds=True,
        start_new_session=True,
    )
