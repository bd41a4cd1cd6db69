"""The program that runs in an averaging sandbox: it computes with one plan for the node that started it.

It imports what it needs, locks itself down (:mod:`gridnode.averaging.lockdown`), says hello, and only then reads the
plan: already the plan's bytes are not to be trusted. Requests and answers are frames (:mod:`gridnode.averaging.frames`)
on standard input and output. The command of a request is one of

======== ============================ ====================================================================
load     the Plan message (uint8)     compile the plan
begin                                 forget an earlier job, ended or not
hold     a diff                       start an iterative average with it
fold     a diff; header ``number``    average := plan(average, diff, number of diffs already averaged)
finish                                answer the iterative average
append   a diff                       one more diff for a list-form plan
run                                   answer plan(all appended diffs)
======== ============================ ====================================================================

An answer is ``{"answer": "ok"}`` with tensors, or ``{"answer": "failed"}`` with ``kind``, ``error`` (the exception's
name; null if the reason says it all) and ``reason``. Every request carries ``seconds``: the process ends itself when
the command takes longer, so that it can't outlive its node by much.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import numpy as np

from gridnode.averaging.frames import BadFrame, Tensor, encode_frame, read_frame
from gridnode.averaging.lockdown import lock_down
from gridnode.averaging.plan_runtimes import Runtime, RuntimeName, load_runtime
from gridnode.errors import GridNodeError
from gridnode.protocol.syft_proto import DTYPES

# The plan wanted too much memory, or anything else went wrong.
Kind = Literal["memory", "error"]

_LONGEST_REASON: Final = 4000
_NO_MEMORY: Final = "can't allocate memory"


@dataclass(slots=True)
class Averager:
    """Carries out the commands with one runtime; holds the running average, or the list, of one job."""

    runtime: Runtime
    _average: list[Tensor] = field(default_factory=list)
    _diffs: list[list[Tensor]] = field(default_factory=list)

    def answer(self, header: dict[str, Any], tensors: list[Tensor]) -> list[Tensor]:
        """Carry out one command.

        Raises:
            BadFrame: there is no such command.
            Exception: whatever the plan raises.
        """
        match header.get("command"):
            case "load":
                self.runtime.load(tensors[0].tobytes())
            case "begin":
                self._forget()
                self.runtime.begin()
            case "hold":
                self._average = tensors
            case "fold":
                self._fold(tensors, header["number"])
            case "append":
                self._diffs.append(tensors)
            case "finish":
                return _sendable(self._average)
            case "run":
                return _sendable(self.runtime.run(self._diffs))
            case _:
                raise BadFrame("there is no such command")
        return []

    def _fold(self, diff: list[Tensor], number: int) -> None:
        folded = self.runtime.fold(self._average, diff, number)
        # The number is a tensor of one element, as the historical node passed it, and makes one of a scalar.
        for position, (before, after) in enumerate(zip(self._average, folded, strict=False)):
            if before.shape == () and after.shape == (1,):
                folded[position] = after.reshape(())
        self._average = folded

    def _forget(self) -> None:
        self._average, self._diffs = [], []


def answer_requests(requests: int, answers: int, averager: Averager) -> None:
    """Answer one request after the other until the node closes its end.

    Args:
        requests: file descriptor to read from.
        answers: file descriptor to write to.
        averager: what carries them out.
    """
    while True:
        try:
            header, tensors = read_frame(
                lambda buffer: read_exactly(requests, buffer), lambda header, _specs: end_after(header["seconds"])
            )
        except EOFError:
            return
        except MemoryError as error:
            # The tensors are still in the pipe, so nothing more can be read from it.
            write_frame(answers, *failed("memory", error))
            return
        try:
            answer: tuple[dict[str, Any], list[Tensor]] = {"answer": "ok"}, averager.answer(header, tensors)
        except Exception as error:
            answer = failed("memory" if is_out_of_memory(error) else "error", error)
        write_frame(answers, *answer)
        signal.setitimer(signal.ITIMER_REAL, 0)


def failed(kind: Kind, error: Exception) -> tuple[dict[str, Any], list[Tensor]]:
    header = {
        "answer": "failed",
        "kind": kind,
        "error": None if isinstance(error, GridNodeError) else type(error).__name__,
        "reason": str(error)[:_LONGEST_REASON],
    }
    return header, []


def is_out_of_memory(error: Exception) -> bool:
    # The interpreter names the operation and chains the error; PyTorch's allocator raises a plain RuntimeError.
    return isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError) or _NO_MEMORY in str(error)


def end_after(seconds: float) -> None:
    """Let the kernel end this process in some seconds, whatever it is doing then."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def read_exactly(descriptor: int, buffer: memoryview) -> None:
    """Fill the buffer.

    Raises:
        EOFError: the other end was closed.
    """
    position = 0
    while position < len(buffer):
        count = os.readv(descriptor, [buffer[position:]])
        if not count:
            raise EOFError
        position += count


def write_frame(descriptor: int, header: dict[str, Any], tensors: list[Tensor]) -> None:
    for buffer in encode_frame(header, tensors):
        position = 0
        while position < len(buffer):
            position += os.write(descriptor, buffer[position:])


def _sendable(tensors: list[Tensor]) -> list[Tensor]:
    """Contiguous arrays of dtypes that a State can have."""
    for tensor in tensors:
        if tensor.dtype.name not in DTYPES:
            raise TypeError(f"it gave a tensor of dtype {tensor.dtype.name}")
    return [np.asarray(tensor, order="C") for tensor in tensors]


def main(arguments: list[str]) -> None:
    """Run the sandbox.

    Args:
        arguments: the runtime's name, bytes of memory, and the node's process id.
    """
    name, memory, parent = arguments
    runtime_name: RuntimeName = "torchscript" if name == "torchscript" else "operations"
    averager = Averager(load_runtime(runtime_name))
    # Plans may print (TorchScript does, past Python): let nothing but answers reach the pipe.
    answers = os.dup(sys.stdout.fileno())
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, sys.stdout.fileno())
    os.dup2(silence, sys.stderr.fileno())
    os.close(silence)
    try:
        isolation = lock_down(int(memory), int(parent))
    except Exception as error:
        write_frame(answers, *failed("error", error))
        os._exit(1)
    write_frame(answers, {"answer": "hello", "isolation": asdict(isolation)}, [])
    answer_requests(sys.stdin.fileno(), answers, averager)
    # Nothing is left to be tidied up, and exit handlers of libraries would only meet refused system calls.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
