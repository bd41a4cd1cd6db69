"""A process that computes with one hosted averaging plan, seen from the node.

The plan is somebody's code: the process it runs in (:mod:`gridnode.averaging.sandbox_process`) has no credentials,
files or network, bounded memory, and is killed when it takes too long. What it answers is checked before it is read.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

import gridnode
from gridnode.averaging.frames import BadFrame, Tensor, TensorSpec, encode_frame, read_frame
from gridnode.averaging.lockdown import Isolation
from gridnode.averaging.plan_runtimes import RuntimeName
from gridnode.averaging.process_pipes import Closed, ProcessPipes, TimeUp
from gridnode.averaging.process_starter import ProcessStarter
from gridnode.averaging.sandbox_reasons import name_of_signal, one_line, readable_size
from gridnode.averaging.strategy import AveragingFailed
from gridnode.errors import Unavailable

log = logging.getLogger(__name__)

Accept = Callable[[Sequence[TensorSpec]], None]

# Importing PyTorch from a cold disk was seen to take 16 s.
_START_SECONDS: Final = 90.0
# The process ends itself this long after the node should have killed it: for when there is no node any more.
_SELF_END_SECONDS: Final = 5.0
_REAP_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 5.0

# The first argument is where this package was imported from: an isolated interpreter looks nowhere but in its own
# installation.
_PROGRAM: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from gridnode.averaging.sandbox_process import main; main(sys.argv[2:])"
)
# Libraries that compute must not start threads: the process may have none, and their stacks would count as its memory.
_ENVIRONMENT: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# Where an interpreter finds its shared libraries, if not in the usual places.
_KEPT_VARIABLES: Final = ("LD_LIBRARY_PATH",)

_starter = ProcessStarter()


class InvalidAveragingPlan(AveragingFailed):
    """The plan can't be used at all: unreadable, or with an operation this node doesn't know."""


class AveragingInterrupted(AveragingFailed):
    """The plan's process was killed from outside, so the plan may not be to blame.

    Trying again can help; a few times at most, because the machine's memory may just be too small for the plan.
    """


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What a hosted averaging plan may use.

    Attributes:
        memory: bytes on top of what the interpreter and its libraries need, diffs included.
        seconds: that one average may take; waiting for diffs doesn't count.
        seconds_per_diff: added to them for each diff.
        list_size: bytes of all diffs together that a list-form plan is given.
    """

    memory: int = 2 * 1024**3
    seconds: float = 120.0
    seconds_per_diff: float = 1.0
    list_size: int = 1024**3


@dataclass(frozen=True, slots=True)
class SandboxedPlan:
    """A plan with all that decides how its sandbox is: two equal ones may share a sandbox, others may not.

    Attributes:
        owner: whose plan it is. A plan may leave traces in its sandbox, so the same bytes of another owner get a
            sandbox of their own.
        data: the Plan message.
        runtime: what computes it.
        limits: what it may use.
    """

    owner: str
    data: bytes
    runtime: RuntimeName
    limits: SandboxLimits


class Sandbox:
    """One running process with one plan loaded. It is started once and used for many jobs, one at a time.

    Not thread safe, except :meth:`kill`. After an :class:`AveragingFailed` it must not be used any more.

    Raises:
        AveragingFailed: the plan can't be loaded.
        Unavailable: no process could be started.
    """

    def __init__(self, plan: SandboxedPlan) -> None:
        self._limits = plan.limits
        self._seconds_given = self._seconds_left = 0.0
        self._killing = threading.Lock()
        self._process = _start_process(plan)
        self._pipes = ProcessPipes(self._process)
        try:
            self.isolation = self._read_hello()
            if not self.isolation.network_cut:
                log.warning(
                    "averaging plans can reach the network: neither namespaces nor system call filters work here"
                )
            self._give_time(plan.limits.seconds)
            self._exchange("load", [np.frombuffer(plan.data, np.uint8)])
        except BaseException:
            self.close()
            raise

    @property
    def process_id(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def fold(self, diffs: Iterable[Sequence[Tensor]], accept: Accept) -> list[Tensor]:
        """Average with an iterative plan, one diff at a time.

        The first diff is the first average; the plan is called for each other one.

        Args:
            diffs: at least one, all of the same shapes and dtypes.
            accept: called with the shapes and dtypes of what the plan gave, before memory is spent on it; raises
                AveragingFailed to refuse them.

        Raises:
            AveragingFailed: the plan failed, passed a limit, or gave something that isn't accepted.
        """
        self._begin_job()
        for number, diff in enumerate(diffs):
            self._give_time(self._limits.seconds_per_diff)
            self._exchange("fold" if number else "hold", diff, number=number)
        return self._exchange("finish", accept=accept)

    def run(self, diffs: Iterable[Sequence[Tensor]], accept: Accept) -> list[Tensor]:
        """Average with a plan that takes the whole list. Arguments and errors are those of :meth:`fold`."""
        self._begin_job()
        for diff in diffs:
            self._give_time(self._limits.seconds_per_diff)
            self._exchange("append", diff)
        return self._exchange("run", accept=accept)

    def kill(self) -> None:
        """Kill the process, whatever it is doing. Thread safe: a job in another thread ends in AveragingInterrupted."""
        with self._killing:
            if self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_REAP_SECONDS)

    def close(self) -> None:
        """Kill the process and close the pipes to it. Not while another thread has a job running: see :meth:`kill`."""
        self.kill()
        self._pipes.close()

    def _begin_job(self) -> None:
        self._seconds_given = self._seconds_left = 0.0
        self._give_time(self._limits.seconds)
        self._exchange("begin")

    def _give_time(self, seconds: float) -> None:
        self._seconds_given += seconds
        self._seconds_left += seconds

    def _read_hello(self) -> Isolation:
        deadline = time.monotonic() + _START_SECONDS
        try:
            header, _ = read_frame(lambda buffer: self._pipes.read_into(buffer, deadline))
            if header.get("answer") != "hello":
                raise BadFrame(one_line(str(header.get("reason"))))
            return Isolation(**header["isolation"])
        except (Closed, TimeUp, BadFrame) as error:
            self._process.poll()
            log.error("averaging sandbox did not start: %r %s", error, self._pipes.error_output())
            raise Unavailable("the process for the averaging plan could not be started", _RETRY_SECONDS) from error

    def _exchange(
        self, command: str, tensors: Sequence[Tensor] = (), *, number: int = 0, accept: Accept | None = None
    ) -> list[Tensor]:
        """Give one command and wait for its answer; without it, the process is killed."""
        started = time.monotonic()
        deadline = started + self._seconds_left
        complete = False
        try:
            header, given = self._request(command, tensors, number, deadline, accept)
            complete = True
        except TimeUp:
            raise AveragingFailed(f"the averaging plan took longer than {self._seconds_given:g} s") from None
        except Closed:
            raise self._failure_at_end() from None
        except BadFrame as error:
            raise AveragingFailed(f"the averaging plan's process gave an unreadable answer: {error}") from None
        finally:
            self._seconds_left -= time.monotonic() - started
            if not complete:
                self.close()
        if header["answer"] != "ok":
            raise self._failure(command, header)
        return given

    def _request(
        self, command: str, tensors: Sequence[Tensor], number: int, deadline: float, accept: Accept | None
    ) -> tuple[dict[str, Any], list[Tensor]]:
        request = {"command": command, "number": number, "seconds": max(self._seconds_left, 0) + _SELF_END_SECONDS}

        def check(header: dict[str, Any], specs: Sequence[TensorSpec]) -> None:
            if header.get("answer") == "ok" and accept is not None:
                accept(specs)
            elif header.get("answer") not in ("ok", "failed") or specs:
                raise BadFrame("neither a result nor a failure")

        # A process that is out of memory answers, and ends, before it has taken everything.
        with contextlib.suppress(Closed):
            self._pipes.write(encode_frame(request, tensors), deadline)
        return read_frame(lambda buffer: self._pipes.read_into(buffer, deadline), check)

    def _failure(self, command: str, header: dict[str, Any]) -> AveragingFailed:
        if header.get("kind") == "memory":
            return self._out_of_memory()
        reason, error = (one_line(str(header.get(key) or "")) for key in ("reason", "error"))
        if command == "load":
            return InvalidAveragingPlan(f"the averaging plan can't be used: {reason}")
        raised = f"raised {error}" if error else "failed"
        # TorchScript's own texts begin with the name, too.
        return AveragingFailed(f"the averaging plan {raised}: {reason.removeprefix(f'{error}: ')}")

    def _failure_at_end(self) -> AveragingFailed:
        """Why the process ended without an answer."""
        try:
            status = self._process.wait(_REAP_SECONDS)
        except subprocess.TimeoutExpired:
            return AveragingFailed("the averaging plan's process stopped answering")
        if status == -signal.SIGALRM:
            return AveragingFailed(f"the averaging plan took longer than {self._seconds_given:g} s")
        if status == -signal.SIGKILL:
            return AveragingInterrupted("the averaging plan's process was killed from outside")
        ending = f"with {name_of_signal(-status)}" if status < 0 else f"with status {status}"
        return AveragingFailed(f"the averaging plan's process ended {ending}")

    def _out_of_memory(self) -> AveragingFailed:
        return AveragingFailed(
            f"the averaging plan ran out of memory: it may use {readable_size(self._limits.memory)}, diffs included"
        )


def _start_process(plan: SandboxedPlan) -> subprocess.Popen[bytes]:
    package = Path(gridnode.__file__).parent
    arguments = [str(package.parent), plan.runtime, str(plan.limits.memory), str(os.getpid())]
    # -I: no variables, no user's packages, no working directory to import from; -B: nothing is written.
    command = [sys.executable, "-I", "-B", "-X", "utf8", "-c", _PROGRAM, *arguments]
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    try:
        return _starter.start(command, {**_ENVIRONMENT, **kept})
    except OSError as error:
        log.error("averaging sandbox did not start: %s", error)
        raise Unavailable("the process for the averaging plan could not be started", _RETRY_SECONDS) from error
