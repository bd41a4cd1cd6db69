"""Talking to a child process that may do anything: no read or write lasts longer than it is given."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import subprocess
import time
from collections.abc import Iterable
from typing import Final

# Fewer switches between the two processes for a large tensor; the most that an unprivileged process gets on Linux.
_PIPE_SIZE: Final = 1024 * 1024
_MOST_ERROR_OUTPUT: Final = 4096
# Buffers that one writev(2) takes; the least that POSIX promises.
_BUFFERS_AT_ONCE: Final = 16


class TimeUp(Exception):
    """The other process took too long."""


class Closed(Exception):
    """The other process closed its end, or ended."""


class ProcessPipes:
    """Standard input, output and error of a child process that was started with unbuffered pipes.

    ``deadline`` is always a value of :func:`time.monotonic`. Not thread safe, except :meth:`close`.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise ValueError("the process was started without pipes")
        self._pipes = (process.stdin, process.stdout, process.stderr)
        self._input, self._output, self._error = (pipe.fileno() for pipe in self._pipes)
        for descriptor in (self._input, self._output, self._error):
            os.set_blocking(descriptor, False)
        for descriptor in (self._input, self._output):
            # Not on macOS, and not beyond a user's quota: the pipe is then as long as it is.
            with contextlib.suppress(AttributeError, OSError):
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)

    def write(self, buffers: Iterable[memoryview], deadline: float) -> None:
        """Write everything.

        Raises:
            TimeUp: the process didn't take it in time.
            Closed: the process takes nothing any more.
        """
        waiting = [buffer for buffer in buffers if buffer]
        while waiting:
            try:
                written = os.writev(self._input, waiting[:_BUFFERS_AT_ONCE])
            except BlockingIOError:
                _wait(self._input, select.POLLOUT, deadline)
                continue
            except OSError as error:
                raise Closed from error
            while waiting and written >= len(waiting[0]):
                written -= len(waiting.pop(0))
            if written:
                waiting[0] = waiting[0][written:]

    def read_into(self, buffer: memoryview, deadline: float) -> None:
        """Fill the buffer.

        Raises:
            TimeUp: the process didn't write enough in time.
            Closed: the process writes nothing any more.
        """
        position = 0
        while position < len(buffer):
            try:
                count = os.readv(self._output, [buffer[position:]])
            except BlockingIOError:
                _wait(self._output, select.POLLIN, deadline)
                continue
            except OSError as error:
                raise Closed from error
            if not count:
                raise Closed
            position += count

    def error_output(self) -> str:
        """The beginning of what the process wrote to standard error, as far as it is there."""
        try:
            return os.read(self._error, _MOST_ERROR_OUTPUT).decode(errors="replace")
        except OSError:
            return ""

    def close(self) -> None:
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.close()


def _wait(descriptor: int, event: int, deadline: float) -> None:
    remaining = deadline - time.monotonic()
    poller = select.poll()
    poller.register(descriptor, event)
    if remaining <= 0 or not poller.poll(remaining * 1000):
        raise TimeUp
