"""CPU time and memory of process trees."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil


def tree(pid: int) -> list[psutil.Process]:
    """A process and all that it started and that still run."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(pid: int) -> float:
    """User and system CPU seconds of a tree, with those of its members that ended."""
    total = 0.0
    for process in tree(pid):
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


def machine_cpu_seconds() -> float:
    """CPU seconds that all cores of this machine have been busy."""
    times = psutil.cpu_times()
    return float(sum(times[:8]) - times.idle - getattr(times, "iowait", 0.0))


def memory_bytes(pid: int) -> int:
    """Memory of a tree: the proportional set size, which counts pages that its processes share once."""
    total = 0
    for process in tree(pid):
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


class MemoryPeak:
    """The largest memory of a tree while the ``with`` block runs, looked at ``interval`` seconds apart."""

    def __init__(self, pid: int, interval: float = 0.1) -> None:
        self.bytes = 0
        self._pid = pid
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryPeak:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, memory_bytes(self._pid))
            if self._stop.wait(self._interval):
                return
