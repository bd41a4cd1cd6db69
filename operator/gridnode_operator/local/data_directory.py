"""What is kept on disk between runs: the embedded server, Secrets as files, logs, and who uses it all just now."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

from gridnode.errors import Conflict, InvalidRequest
from gridnode_operator.api import GridNode
from gridnode_operator.desired.names import child_names
from gridnode_operator.local.paths import shown_path
from gridnode_operator.local.secret_files import SecretFiles

_LOCK: Final = "up.lock"
_SECRETS: Final = "secrets"
_LOGS: Final = "logs"
_PROCESSES: Final = "processes"
_NODES: Final = "nodes"
_MASTER: Final = "master"
#: All that a run makes here; the last four are the embedded server's.
_OWN: Final = (
    _SECRETS, _LOGS, _PROCESSES, _NODES, _MASTER,
    "postgresql", "postgresql.unfinished", "users.lock", "start.lock", _LOCK,
)  # fmt: skip
_LEFTOVERS_END: Final = 10.0  # seconds


class AlreadyRunning(Conflict):
    """Another ``gridnode up`` uses the directory."""


class DataDirectory:
    """The directory of ``gridnode up``.

    Args:
        path: made when it is first used, for its owner alone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        self.secrets = SecretFiles(self.path / _SECRETS)
        #: Manifests that the master node makes, and the status of every GridNode.
        self.nodes = self.path / _NODES
        #: What the master node keeps: finished models, its log, and a key for whoever administers it.
        self.master = self.path / _MASTER

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Nobody else uses it while the block runs; what a killed run has left running is ended first.

        Raises:
            AlreadyRunning: somebody does.
            InvalidRequest: it can't be made.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self.path / _LOCK).open("a+b")
        except OSError as error:
            raise InvalidRequest(f"the data directory {self.path} can't be used: {error.strerror}") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                here = shown_path(self.path)
                raise AlreadyRunning(
                    f"another `gridnode up` (process {self.user() or 'unknown'}) uses {here}. "
                    f"Stop it with `gridnode down --data {here}`, or choose another directory with --data."
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()).encode())
            lock.flush()
            self._end_leftovers()
            yield

    def user(self) -> int | None:
        """Id of the process that uses it now, None if nobody does."""
        try:
            with (self.path / _LOCK).open("rb") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return int(lock.read() or 0) or None
        except (OSError, ValueError):
            pass
        return None

    def log_file(self, gridnode: GridNode, process: str) -> Path:
        """Where a process of a GridNode writes; its directory exists."""
        directory = self.path / _LOGS / gridnode.namespace / child_names(gridnode.name).base
        directory.mkdir(parents=True, exist_ok=True)
        return directory / f"{process}.log"

    def remember_process(self, process_id: int) -> None:
        """Note a process that leads a group of its own, to be ended by the next run if this one is killed."""
        directory = self.path / _PROCESSES
        directory.mkdir(exist_ok=True)
        with contextlib.suppress(psutil.Error):
            (directory / str(process_id)).write_text(repr(psutil.Process(process_id).create_time()))

    def forget_process(self, process_id: int) -> None:
        """Note that it has ended."""
        (self.path / _PROCESSES / str(process_id)).unlink(missing_ok=True)

    def delete(self) -> None:
        """Delete everything that was ever made here; other files, and so the directory, stay.

        Raises:
            AlreadyRunning: somebody uses it.
        """
        with self.used():
            for name in _OWN:
                path = self.path / name
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def _end_leftovers(self) -> None:
        """End the replicas of a run that was killed: nothing leads to them any more, but they hold connections."""
        left = []
        for note in (self.path / _PROCESSES).glob("*"):
            with contextlib.suppress(psutil.Error, OSError, ValueError):
                process = psutil.Process(int(note.name))
                # Another process may have got the id since.
                if repr(process.create_time()) == note.read_text():
                    process.terminate()
                    left.append(process)
            note.unlink(missing_ok=True)
        psutil.wait_procs(left, timeout=_LEFTOVERS_END)
        for process in left:
            end_group(process.pid)


def end_group(process_id: int) -> None:
    """Kill what is left of a process group; harmless if nothing is."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process_id, signal.SIGKILL)


def wait_until_unused(data: DataDirectory, seconds: float) -> bool:
    """Wait until nobody uses a directory; False if somebody still does after so many seconds."""
    deadline = time.monotonic() + seconds
    while data.user() is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
