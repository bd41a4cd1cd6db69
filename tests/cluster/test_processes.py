"""Servers are paused and ended by whoever started them, and end with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.control_plane.process import ServerProcess, Starter, StartFailed, free_port

ROOT = Path(__file__).parent.parent.parent
# Starts a server, tells its process id, and waits.
RUN = """
import sys, time
from pathlib import Path
from tests.support.control_plane.process import ServerProcess, Starter
server = ServerProcess(Starter(), ["/bin/sleep", "1000"], Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
time.sleep(1000)
"""


@pytest.fixture
def starter() -> Iterator[Starter]:
    starter = Starter()
    yield starter
    starter.close()


@pytest.fixture
def sleeping(starter: Starter, tmp_path: Path) -> Iterator[ServerProcess]:
    """A process that does nothing."""
    server = ServerProcess(starter, ["/bin/sleep", "1000"], tmp_path)
    server.start()
    server.wait_until(lambda: psutil.Process(server.pid).name() == "sleep", 10)
    yield server
    server.kill()


def ended(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process ends in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def test_paused_server_is_ended_at_once(sleeping: ServerProcess) -> None:
    sleeping.pause()
    # A signal takes its time.
    deadline = time.monotonic() + 5
    while psutil.Process(sleeping.pid).status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert sleeping.is_running()
    started = time.monotonic()
    sleeping.stop()
    assert not sleeping.is_running()
    assert time.monotonic() - started < 5


def test_server_that_ignores_sigterm_is_killed(starter: Starter, tmp_path: Path) -> None:
    server = ServerProcess(starter, ["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"], tmp_path)
    server.start()
    server.wait_until(lambda: "ready" in server.log_tail(), 10)
    server.stop(0.2)
    assert not server.is_running()


def test_server_that_does_not_start_shows_its_log(starter: Starter, tmp_path: Path) -> None:
    server = ServerProcess(starter, ["/bin/sh", "-c", "echo port taken; exit 3"], tmp_path)
    server.start()
    with pytest.raises(StartFailed, match="sh ended before it was ready:\nport taken"):
        server.wait_until(lambda: False, 10)


def test_server_outlives_the_thread_that_asked_for_it(starter: Starter, tmp_path: Path) -> None:
    server = ServerProcess(starter, ["/bin/sleep", "1000"], tmp_path)

    def start() -> None:
        server.start()
        server.wait_until(lambda: psutil.Process(server.pid).name() == "sleep", 10)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    time.sleep(0.2)
    assert server.is_running()
    server.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends processes with those that started them")
def test_server_ends_with_a_killed_test_run(tmp_path: Path) -> None:
    run = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        # As soon as it has become the command, it is tethered.
        deadline = time.monotonic() + 10
        while psutil.Process(pid).name() != "sleep":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(run.pid, signal.SIGKILL)
    assert ended(pid)


def test_port_is_not_one_that_somebody_listens_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
        listener.listen()
        taken = listener.getsockname()[1]
        free = free_port()
        offered = iter([taken, taken, free])
        monkeypatch.setattr("random.choice", lambda _: next(offered))
        assert free_port() == free
