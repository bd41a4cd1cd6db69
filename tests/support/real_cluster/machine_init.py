"""Process 1 of a machine: makes its mounts, and starts and ends processes as it is told on standard input.

    unshare --net --mount --pid --fork --uts --ipc --kill-child --mount-proc python -I -S machine_init.py DIRECTORY

Each line is a request in JSON, and has one line as answer. When standard input ends, the machine does, and the kernel
ends whatever runs there and takes its mounts and interfaces away.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

#: What kubelet sets for the whole kernel; here it writes into files of the machine's own.
_KERNEL_WIDE = (
    "vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)  # fmt: skip
_ended: dict[int, int] = {}


def main(directory: Path) -> None:
    """Serve requests until there are none any more."""
    _mount(directory)
    # Orphans of containers come here, too.
    signal.signal(signal.SIGCHLD, lambda *_: _reap())
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer: Any = {"result": _DO[request.pop("do")](**request)}
        except OSError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


def _mount(directory: Path) -> None:
    """Let what is written to /etc and /var stay in the directory, and what is in /run be gone at the end."""
    for name in ("etc", "var"):
        upper, work = directory / name / "upper", directory / name / "work"
        upper.mkdir(parents=True)
        work.mkdir()
        options = f"lowerdir=/{name},upperdir={upper},workdir={work}"
        _run("mount", "-t", "overlay", "overlay", "-o", options, f"/{name}")
    _run("mount", "-t", "tmpfs", "tmpfs", "/run")
    for name in _KERNEL_WIDE:
        setting = Path("/proc/sys") / name
        copy = directory / "sys" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(setting.read_text())
        _run("mount", "--bind", str(copy), str(setting))
    _run("ip", "link", "set", "lo", "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _start(command: list[str], log: str, environment: dict[str, str]) -> int:
    """Start a command; gives its process id here."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
        ]
        return os.posix_spawn(command[0], command, environment, file_actions=actions, setsid=True)
    finally:
        os.close(output)


def _end(pid: int, seconds: float, number: int) -> bool:
    """Send a signal and wait; whether it has ended."""
    if pid not in _ended:
        os.kill(pid, number)
    deadline = time.monotonic() + seconds
    while pid not in _ended and time.monotonic() < deadline:
        time.sleep(0.02)
    return pid in _ended


def _is_running(pid: int) -> bool:
    return pid not in _ended


def _reap() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _ended[pid] = status


_DO: dict[str, Any] = {"start": _start, "end": _end, "is_running": _is_running}

if __name__ == "__main__":
    main(Path(sys.argv[1]))
