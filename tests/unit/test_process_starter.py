"""A sandbox's process: what it inherits from the node, and that it lives exactly as long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

import gridnode
from gridnode.averaging.process_starter import ProcessStarter
from tests.support.averaging_plans import endless_plan

pytestmark = pytest.mark.process

# Prints, as JSON, what a process sees of where it came from.
INHERITED = """
import json, os
def is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
print(json.dumps({
    "environment": dict(os.environ),
    "folder": os.getcwd(),
    "leads a session": os.getsid(0) == os.getpid() == os.getpgrp(),
    "descriptors": [descriptor for descriptor in range(1000) if is_open(descriptor)],
}))
"""

# A node that averages for ever; prints the id of the sandbox's process.
NODE = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from gridnode.averaging.sandbox import Sandbox, SandboxedPlan, SandboxLimits
plan = open(sys.argv[2], "rb").read()
sandbox = Sandbox(SandboxedPlan("author", plan, "operations", SandboxLimits(seconds=100)))
print(sandbox.process_id, flush=True)
diff = [np.ones((1000, 1000), np.float32)]
sandbox.fold([diff, diff], lambda specs: None)
"""


def run_child(program: str, environment: Mapping[str, str]) -> Any:
    process = ProcessStarter().start([sys.executable, "-I", "-c", program], environment)
    output, _ = process.communicate(timeout=30)
    return json.loads(output)


def test_child_sees_only_the_variables_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDNODE_DATABASE_URL", "postgresql://secret")

    inherited = run_child(INHERITED, {"OMP_NUM_THREADS": "1"})

    # Python itself may add the locale it coerced to.
    assert {name for name in inherited["environment"] if name != "LC_CTYPE"} == {"OMP_NUM_THREADS"}


def test_child_gets_no_descriptor_but_its_pipes_and_a_session_of_its_own() -> None:
    held = os.open("/", os.O_RDONLY)
    os.set_inheritable(held, True)
    try:
        inherited = run_child(INHERITED, {})
    finally:
        os.close(held)

    assert inherited["descriptors"] == [0, 1, 2]
    assert inherited["folder"] == "/"
    assert inherited["leads a session"]


def test_program_that_does_not_exist_is_reported_to_who_asked() -> None:
    with pytest.raises(FileNotFoundError):
        ProcessStarter().start(["/nonexistent"], {})


def test_children_are_started_by_one_thread_that_stays() -> None:
    """The kernel would kill a sandbox with the thread that started it, and threads that serve requests end."""
    starter = ProcessStarter()
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        program = "import ctypes, sys; ctypes.CDLL(None).prctl(1, 9, 0, 0, 0); print(flush=True); sys.stdin.read()"
        started.append(starter.start([sys.executable, "-I", "-c", program], {}))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    (process,) = started
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.3)

    assert process.poll() is None
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_starter_works_after_a_fork() -> None:
    program = """
import os, sys
sys.path.insert(0, sys.argv[1])
from gridnode.averaging.process_starter import ProcessStarter
starter = ProcessStarter()
starter.start(["/bin/sh", "-c", ":"], {}).communicate()
child = os.fork()
if not child:
    os._exit(starter.start(["/bin/sh", "-c", "exit 7"], {}).wait())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    arguments = [sys.executable, "-c", program, str(Path(gridnode.__file__).parent.parent)]

    assert subprocess.run(arguments, capture_output=True, timeout=30).stdout.split() == [b"7"]


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_sandbox_at_work_dies_with_its_node(ending: signal.Signals, tmp_path: Path) -> None:
    plan = tmp_path / "plan.bin"
    plan.write_bytes(endless_plan())
    arguments = [sys.executable, "-c", NODE, str(Path(gridnode.__file__).parent.parent), str(plan)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as node:
        assert node.stdout is not None
        sandbox = psutil.Process(int(node.stdout.readline()))
        time.sleep(0.3)
        assert is_running(sandbox)
        node.send_signal(ending)

    deadline = time.monotonic() + 5
    while is_running(sandbox) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(sandbox)


def is_running(process: psutil.Process) -> bool:
    # Where no init reaps orphans, a dead one stays as a zombie.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
