"""A machine of its own on this one: namespaces for network, mounts and processes, and a cable to here.

Nothing of the host changes but one interface and some control groups, and both are gone with the machine.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_INIT = Path(__file__).parent / "machine_init.py"
_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Machine:
    """Runs processes that see another network, other files in /etc, /var and /run, and only each other.

    Args:
        directory: Existing; for what the machine writes.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.control_group = f"/gridnode-{os.getpid()}"
        self._process: subprocess.Popen[str] | None = None
        self._pid = 0
        number = next(number for number in itertools.count(1) if not Path(f"/sys/class/net/gridnode{number}").exists())
        self._interface = f"gridnode{number}"
        #: Addresses of this end of the cable, and of the machine's.
        self.host_address, self.address = f"10.254.{number}.1", f"10.254.{number}.2"

    def start(self) -> None:
        """Start it, and plug in its cable."""
        _remove_control_groups(os.getpid())
        for controller in _controllers():
            group = controller / self.control_group[1:]
            group.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):  # empty in a new one of version 1
                if (group / name).exists() and not _is_version_2():
                    (group / name).write_text((controller / name).read_text())
        with (self.directory / "machine.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "unshare", "--net", "--mount", "--pid", "--fork", "--uts", "--ipc", "--kill-child", "--mount-proc",
                    sys.executable, "-I", "-S", str(_INIT), str(self.directory),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        ready = self._process.stdout.readline()
        assert ready, f"the machine did not start: {(self.directory / 'machine.log').read_text()[-2000:]}"
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        self._pid = int(children.split()[0])
        _ip("link", "add", self._interface, "type", "veth", "peer", "name", "eth0", "netns", str(self._pid))
        _ip("address", "add", f"{self.host_address}/30", "dev", self._interface)
        _ip("link", "set", self._interface, "up")
        self.run("ip", "address", "add", f"{self.address}/30", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "route", "add", "default", "via", self.host_address)

    def stop(self) -> None:
        """End it with all that runs there. Harmless if it does not run."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()
        # The kernel takes a moment for the interface, and for processes that hold a control group.
        deadline = time.monotonic() + 10
        while Path(f"/sys/class/net/{self._interface}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        _remove_control_groups(os.getpid())
        shutil.rmtree(self.directory, ignore_errors=True)

    def run(self, *command: str, seconds: float = 120.0, given: str | None = None) -> str:
        """Run a command there to its end; gives what it says.

        Raises:
            AssertionError: It failed; holds what it said.
        """
        done = subprocess.run(
            ["nsenter", f"--target={self._pid}", "--net", "--mount", "--pid", "--uts", "--ipc", *command],
            input=given,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def request(self, what: str, **more: Any) -> Any:
        """What process 1 answers."""
        process = self._process
        assert process is not None, "the machine does not run"
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"do": what, **more}) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        assert "error" not in answer, answer
        return answer["result"]


class MachineProcess:
    """A server on a machine, which can be ended and started again."""

    def __init__(self, machine: Machine, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.name = Path(command[0]).name
        self._machine = machine
        self._command = list(command)
        self._environment = {"PATH": _PATH, **(environment or {})}
        self._pid: int | None = None
        self.log = machine.directory / f"{self.name}.log"

    def start(self) -> None:
        """Start it, without waiting for anything."""
        more = {"log": str(self.log), "environment": self._environment}
        self._pid = self._machine.request("start", command=self._command, **more)

    def stop(self, *, kill: bool = False) -> None:
        """End it: SIGTERM, and SIGKILL after ten seconds or if ``kill``."""
        assert self._pid is not None, f"{self.name} has not been started"
        if kill or not self._machine.request("end", pid=self._pid, seconds=10, number=int(signal.SIGTERM)):
            self._machine.request("end", pid=self._pid, seconds=10, number=int(signal.SIGKILL))

    def is_running(self) -> bool:
        """Whether it runs."""
        return self._pid is not None and bool(self._machine.request("is_running", pid=self._pid))

    def log_tail(self) -> str:
        """The end of what it has written."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-4000:] if self.log.exists() else ""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _is_version_2() -> bool:
    return (_CONTROL_GROUPS / "cgroup.controllers").exists()


def _controllers() -> list[Path]:
    """Where control groups are made: one place, or in version 1 one for each controller."""
    if _is_version_2():
        return [_CONTROL_GROUPS]
    return [path for path in _CONTROL_GROUPS.iterdir() if (path / "cgroup.procs").exists() and not path.is_symlink()]


def _remove_control_groups(pid: int) -> None:
    """Those of this process's machine, and of machines whose test was killed."""
    for group in (found for controller in _controllers() for found in controller.glob("gridnode-*")):
        owner = int(group.name.removeprefix("gridnode-"))
        if owner == pid or not Path(f"/proc/{owner}").exists():
            for folder, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
