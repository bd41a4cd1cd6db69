"""The load generator: ``python -m bench.load WORKLOAD.json`` plays phones, one process a connection.

On standard output it prints a line ``{"event": "start"}`` when the measured time begins, ``{"event": "end"}`` when it
ends, and last ``{"event": "result", …}`` with what :class:`bench.workload.Result` holds.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from bench.phone import Assignment, Bodies, Late, Phone, Rejection, Requests, Wrong
from bench.wire import Connection, Lost
from bench.workload import Result, Workload, read_workload

# Forked, so that the bodies are loaded once and no interpreter is started while the server is measured.
_FORK = multiprocessing.get_context("fork")


class Budget:
    """How many sessions may still be started, over all connections."""

    def __init__(self, limit: int | None) -> None:
        self._left = None if limit is None else _FORK.Value("q", limit)

    def take(self) -> bool:
        """Whether one more may start."""
        if self._left is None:
            return True
        with self._left.get_lock():
            self._left.value -= 1
            return bool(self._left.value >= 0)

    def give_back(self) -> None:
        """The one that was taken could not be used."""
        if self._left is not None:
            with self._left.get_lock():
                self._left.value += 1


class Rotation:
    """Which of a connection's processes is asked next; none before the time its last rejection gave."""

    def __init__(self, requests: list[Requests], rotate: bool, longest_wait: float | None) -> None:
        self._requests = requests
        self._rotate = rotate
        self._longest_wait = float("inf") if longest_wait is None else longest_wait
        self._not_before = [0.0] * len(requests)
        self._index = 0

    def next(self) -> tuple[Requests | None, float]:
        """The process to ask, or None and the moment at which the first may be asked again."""
        now = time.perf_counter()
        for offset in range(len(self._requests)):
            index = (self._index + offset) % len(self._requests)
            if self._not_before[index] <= now:
                self._index = index
                return self._requests[index], now
        return None, min(self._not_before)

    def answered(self, rejection: Rejection | None) -> None:
        """Take the outcome of the session with the process that :meth:`next` gave."""
        if rejection is not None:
            wait = float("inf") if rejection.timeout is None else rejection.timeout
            self._not_before[self._index] = time.perf_counter() + min(wait, self._longest_wait)
        if self._rotate or rejection is not None:
            self._index = (self._index + 1) % len(self._requests)


def main() -> None:
    """Run the workload whose file is the first argument."""
    workload = read_workload(Path(sys.argv[1]))
    bodies = {name: Bodies(traffic) for name, traffic in workload.traffic.items()}
    requests = [Requests(target, bodies[target.traffic]) for target in workload.targets]
    barrier = _FORK.Barrier(workload.connections + 1)
    budget = Budget(workload.limit)
    pipes = []
    for number in range(workload.connections):
        mine = requests if workload.shared else requests[number :: workload.connections]
        receiving, sending = _FORK.Pipe(duplex=False)
        process = _FORK.Process(target=_connection, args=(workload, mine, budget, barrier, sending))
        process.start()
        sending.close()
        pipes.append((process, receiving))

    barrier.wait()
    started = time.perf_counter()
    time.sleep(workload.warmup)
    _tell({"event": "start"})
    if workload.limit is None and not workload.prepared:
        time.sleep(max(0.0, started + workload.warmup + workload.seconds - time.perf_counter()))
        _tell({"event": "end"})
    results = [_receive(process, receiving) for process, receiving in pipes]
    if workload.limit is not None or workload.prepared:
        _tell({"event": "end"})
    total = Result()
    if workload.mode == "reports":
        # Up to the moment at which the first connection ran out of assignments: after it there is less load.
        shortest = min(result.elapsed for result in results)
        for result in results:
            result.cut_reports(shortest)
    for result in results:
        total.add(result)
    _tell({"event": "result", "result": dataclasses.asdict(total)})


def _tell(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def _receive(process: BaseProcess, receiving: Pipe) -> Result:
    result = Result()
    try:
        result = receiving.recv()
    except EOFError:
        result.error("load", "a load process died")
    process.join()
    return result


def _connection(workload: Workload, requests: list[Requests], budget: Budget, barrier: Barrier, sending: Pipe) -> None:
    """One process: one connection and its sessions."""
    result = Result()
    connection = Connection(workload.address, workload.timeout)
    assignments = _prepare(workload, requests, connection, result)
    barrier.wait()
    started = time.perf_counter()
    begin = started + workload.warmup
    end = begin + workload.seconds
    phone = Phone(connection, result, (begin, end), workload.late_is_expected)
    cpu = time.process_time()
    if workload.mode == "reports":
        _reports(phone, assignments, result, begin, end)
    else:
        cpu += _sessions(phone, Rotation(requests, workload.rotate, workload.longest_wait), budget, result, begin, end)
    result.cpu_seconds = time.process_time() - cpu
    stopped = time.perf_counter()
    bounded = workload.limit is not None or workload.mode == "reports"
    result.elapsed = (min(stopped, end) - begin) if bounded else workload.seconds
    result.connects = connection.connects
    result.bytes_in, result.bytes_out = connection.bytes_in, connection.bytes_out
    sending.send(result)


def _prepare(
    workload: Workload, requests: list[Requests], connection: Connection, result: Result
) -> list[tuple[Requests, Assignment]]:
    phone = Phone(connection, result, (float("inf"), 0.0), late_is_expected=False)
    assignments = []
    for number in range(workload.prepared):
        each = requests[number % len(requests)]
        try:
            assignment = phone.assign(each)
        except (Lost, Wrong) as error:
            result.error("prepare", str(error))
            continue
        if isinstance(assignment, Assignment):
            assignments.append((each, assignment))
    return assignments


def _reports(
    phone: Phone, assignments: list[tuple[Requests, Assignment]], result: Result, begin: float, end: float
) -> None:
    for requests, assignment in assignments:
        if time.perf_counter() > end:
            break
        try:
            phone.report(requests, assignment)
            if len(result.latencies["report"]) > len(result.moments):
                result.moments.append(time.perf_counter() - begin)
        except Late:
            result.late += 1
        except Wrong as error:
            result.error(error.step, str(error))
        except Lost as error:
            result.error("lost", str(error))


def _sessions(phone: Phone, rotation: Rotation, budget: Budget, result: Result, begin: float, end: float) -> float:
    """Sessions until the end; returns the CPU seconds that the warm-up took."""
    warmup_cpu = 0.0
    at_start = time.process_time()
    while time.perf_counter() < end:
        if not warmup_cpu and time.perf_counter() >= begin:
            warmup_cpu = time.process_time() - at_start
        requests, when = rotation.next()
        if requests is None:
            pause = min(when, end) - time.perf_counter()
            result.idle += max(0.0, pause)
            time.sleep(max(0.0, pause))
            continue
        if not budget.take():
            break
        rejection = phone.session(requests)
        rotation.answered(rejection)
        if rejection is not None:
            budget.give_back()
    return warmup_cpu


if __name__ == "__main__":
    main()
