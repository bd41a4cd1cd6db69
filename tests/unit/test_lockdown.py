"""What a locked down process can't do any more. Each test locks down a process of its own and lets it try."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gridnode

pytestmark = pytest.mark.process

# Everything is imported before, as a locked down process can open no file. Prints what each attempt raised, or null.
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import ctypes, json, os, signal, socket, threading
import numpy as np
from gridnode.averaging import lockdown
measure, user, port, folder = sys.argv[2:]
parent = os.getppid()
if user == "unprivileged":
    os.setgroups([])
    os.setresgid(1234, 1234, 1234)
    os.setresuid(1234, 1234, 1234)

def apply():
    if measure == "all":
        isolation = lockdown.lock_down(64 << 20, parent)
        return [isolation.network_namespace, isolation.system_call_filter, isolation.unprivileged_user]
    if measure == "limits":
        return lockdown.limit_resources(lockdown.address_space_in_use() + (64 << 20))
    if measure == "filter":
        lockdown.control_process(38, 1)
        return lockdown.filter_system_calls()
    if measure == "namespace":
        return lockdown.leave_network(0x40000000) or lockdown.leave_network(0x50000000)

def connect():
    with socket.socket() as connection:
        connection.settimeout(2)
        connection.connect(("127.0.0.1", int(port)))

def write_more():
    os.write(opened, b"x")

def start_thread():
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()

def trace():
    # PTRACE_SEIZE doesn't stop the parent, and ends with this process.
    if ctypes.CDLL(None, use_errno=True).ptrace(0x4206, parent, None, None):
        raise OSError(ctypes.get_errno(), "ptrace")

def execute():
    try:
        os.execv("/nonexistent", ["nonexistent"])
    except FileNotFoundError:
        pass  # it was looked for

attempts = {
    "make a socket": lambda: socket.socket().close(),
    "connect": connect,
    "listen": lambda: socket.socket().listen(),
    "read a file": lambda: os.open("/etc/hosts", os.O_RDONLY),
    "write a file": lambda: os.open(folder + "/new", os.O_WRONLY | os.O_CREAT),
    "write more into an open file": write_more,
    "read the environment of the parent": lambda: os.open(f"/proc/{parent}/environ", os.O_RDONLY),
    "list a folder": lambda: os.listdir("/"),
    "fork": lambda: os.fork() or os._exit(0),
    "start a thread": start_thread,
    "execute": execute,
    "signal the parent": lambda: os.kill(parent, 0),
    "trace the parent": trace,
    "raise a limit": lambda: lockdown.resource.setrlimit(lockdown.resource.RLIMIT_NOFILE, (100, 100)),
    "become root": lambda: os.setresuid(0, 0, 0),
    "allocate too much": lambda: np.ones(100 << 20, np.uint8),
    "allocate a little": lambda: np.ones(16 << 20, np.uint8),
    "compute": lambda: np.ones((200, 200), np.float32) @ np.ones((200, 200), np.float32),
}
opened = os.open(folder + "/opened", os.O_WRONLY | os.O_CREAT)
result = {"granted": apply()}
for name, attempt in attempts.items():
    try:
        attempt()
        result[name] = None
    except BaseException as error:
        result[name] = type(error).__name__
os.write(1, json.dumps(result).encode())
os._exit(0)
"""

FORBIDDEN = {
    "make a socket",
    "connect",
    "listen",
    "read a file",
    "write a file",
    "write more into an open file",
    "read the environment of the parent",
    "list a folder",
    "fork",
    "start a thread",
    "execute",
    "signal the parent",
    "trace the parent",
    "raise a limit",
    "become root",
    "allocate too much",
}
USERS = ["as it is", "unprivileged"] if os.geteuid() == 0 else ["as it is"]


@pytest.fixture
def listening_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that any user may write to; pytest's own belong to the user who runs it."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


def attempt_all(measure: str, user: str, port: int, folder: Path) -> dict[str, Any]:
    completed = subprocess.run(
        [
            *(sys.executable, "-I", "-c", PROGRAM),
            *(str(Path(gridnode.__file__).parent.parent), measure, user, str(port), str(folder)),
        ],
        env={"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        timeout=60,
    )
    assert completed.returncode == 0, completed.stderr.decode()
    result: dict[str, Any] = json.loads(completed.stdout)
    return result


def succeeded(result: dict[str, Any]) -> set[str]:
    return {name for name, raised in result.items() if name != "granted" and raised is None}


@pytest.mark.parametrize("user", USERS)
def test_locked_down_process_can_only_compute(user: str, listening_port: int, folder: Path) -> None:
    result = attempt_all("all", user, listening_port, folder)

    assert succeeded(result) == {"allocate a little", "compute"}
    assert result["allocate too much"] == "MemoryError"
    assert sorted(path.name for path in folder.iterdir()) == ["opened"]
    _, system_call_filter, unprivileged = result["granted"]
    assert system_call_filter
    assert unprivileged


def test_system_call_filter_alone_refuses_all_but_computing(listening_port: int, folder: Path) -> None:
    """Where containers allow no namespaces."""
    result = attempt_all("filter", USERS[-1], listening_port, folder)

    assert result["granted"]
    # Memory, and how long a file may get, are the limits' matter.
    allowed = {"write more into an open file", "allocate too much", "allocate a little", "compute"}
    assert succeeded(result) == allowed


def test_limits_alone_forbid_files_sockets_processes_and_much_memory(listening_port: int, folder: Path) -> None:
    """Where there is no system call filter (other processors)."""
    result = attempt_all("limits", USERS[-1], listening_port, folder)

    assert FORBIDDEN - succeeded(result) >= {
        *("make a socket", "connect", "listen", "read a file", "write a file", "read the environment of the parent"),
        *("list a folder", "fork", "start a thread", "raise a limit", "allocate too much"),
        "write more into an open file",
    }
    assert {"allocate a little", "compute"} <= succeeded(result)


@pytest.mark.parametrize("user", USERS)
def test_process_without_network_reaches_not_even_this_machine(user: str, listening_port: int, folder: Path) -> None:
    result = attempt_all("namespace", user, listening_port, folder)

    # Kernels and containers may forbid it; what is reported has to be true.
    assert (result["connect"] is None) != result["granted"]


def test_attempts_succeed_without_lockdown(listening_port: int, folder: Path) -> None:
    """The other tests here would show nothing if the attempts failed by themselves."""
    result = attempt_all("nothing", "as it is", listening_port, folder)

    # Tracing may be restricted, and only root can become root.
    assert succeeded(result) >= FORBIDDEN - {"trace the parent", "become root"}
