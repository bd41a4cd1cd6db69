"""Things that happen at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """Runs a function in a thread of its own, from now on."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def is_done(self, timeout: float = 0) -> bool:
        """Whether it has ended within ``timeout`` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def result(self, timeout: float = 20) -> T:
        """What the function gave, or raise what it raised."""
        assert self.is_done(timeout), "still at it"
        if self._error is not None:
            raise self._error
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:
            self._error = error


def at_once(works: Sequence[Callable[[], object]]) -> list[object]:
    """Run functions in threads that begin at the same moment; what each gave or raised."""
    barrier = threading.Barrier(len(works))

    def begin(work: Callable[[], object]) -> object:
        barrier.wait()
        return work()

    threads = [Background(partial(begin, work)) for work in works]
    outcomes: list[object] = []
    for thread in threads:
        try:
            outcomes.append(thread.result())
        except Exception as error:
            outcomes.append(error)
    return outcomes


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Look again and again until it is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
