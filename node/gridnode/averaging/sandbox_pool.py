"""Keeps the sandboxes of recently used averaging plans running, so that a cycle does not wait for one to start."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from gridnode.averaging.sandbox import Sandbox, SandboxedPlan
from gridnode.errors import Unavailable

_RETRY_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Idle:
    plan: SandboxedPlan
    sandbox: Sandbox
    since: float


class SandboxPool:
    """Lends sandboxes, one job at a time each, and closes those that nobody used for a while. Thread safe.

    A sandbox dies with the node's process whatever ends that. After a fork the child has an empty pool of its own.

    Args:
        maximum: sandboxes that may run at once, lent and idle ones together.
        idle_seconds: after which a sandbox that nobody borrowed is closed.
        wait_seconds: how long to wait for one when all are lent.
        start: starts the sandbox of a plan.
    """

    def __init__(
        self,
        *,
        maximum: int = 4,
        idle_seconds: float = 60.0,
        wait_seconds: float = 30.0,
        start: Callable[[SandboxedPlan], Sandbox] = Sandbox,
    ) -> None:
        self._maximum = maximum
        self._idle_seconds = idle_seconds
        self._wait_seconds = wait_seconds
        self._start = start
        self._changed: threading.Condition
        self._closed: bool
        self._running: int
        self._idle: list[_Idle]
        self._lent: set[Sandbox]
        self._closer: threading.Thread | None
        self._forget()
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self.close)

    @property
    def closed(self) -> bool:
        return self._closed

    @contextmanager
    def borrow(self, plan: SandboxedPlan) -> Iterator[Sandbox]:
        """A sandbox with the plan loaded, for one job. It is kept for the next job unless this one raises.

        Raises:
            AveragingFailed: the plan can't be loaded.
            Unavailable: all sandboxes are busy, none can be started, or the pool is closed.
        """
        sandbox = self._take(plan)
        try:
            yield sandbox
        except BaseException:
            self._discard(sandbox)
            raise
        self._give_back(plan, sandbox)

    def close(self) -> None:
        """Kill all sandboxes, those at work too, and lend no more."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._running -= len(idle)
            lent = list(self._lent)
            self._changed.notify_all()
        for entry in idle:
            entry.sandbox.close()
        for sandbox in lent:
            # Not close(): another thread is reading from it, and will see it end.
            sandbox.kill()
        atexit.unregister(self.close)

    def _take(self, plan: SandboxedPlan) -> Sandbox:
        sandbox, evicted = self._wait_for_place(plan)
        if sandbox is not None:
            return sandbox
        try:
            if evicted is not None:
                evicted.close()
            sandbox = self._start(plan)
        except BaseException:
            self._leave_place()
            raise
        with self._changed:
            self._lent.add(sandbox)
            closed = self._closed
        if closed:
            self._discard(sandbox)
            raise _closing()
        return sandbox

    def _wait_for_place(self, plan: SandboxedPlan) -> tuple[Sandbox | None, Sandbox | None]:
        """An idle sandbox of this plan, or a place for a new one and the sandbox to close for it."""
        deadline = time.monotonic() + self._wait_seconds
        with self._changed:
            while not self._closed:
                warm = self._take_idle(plan)
                if warm is not None:
                    self._lent.add(warm)
                    return warm, None
                if self._running < self._maximum:
                    self._running += 1
                    return None, None
                if self._idle:
                    return None, self._idle.pop(0).sandbox
                if not self._changed.wait(deadline - time.monotonic()):
                    raise Unavailable("all processes for averaging plans are busy", _RETRY_SECONDS)
        raise _closing()

    def _take_idle(self, plan: SandboxedPlan) -> Sandbox | None:
        for entry in reversed(self._idle):
            # One that was killed from outside is evicted as the oldest, or closed when its time is up.
            if entry.plan == plan and entry.sandbox.alive:
                self._idle.remove(entry)
                return entry.sandbox
        return None

    def _give_back(self, plan: SandboxedPlan, sandbox: Sandbox) -> None:
        with self._changed:
            keep = not self._closed and sandbox.alive
            if keep:
                self._lent.discard(sandbox)
                self._idle.append(_Idle(plan, sandbox, time.monotonic()))
                self._changed.notify()
                if self._closer is None:
                    self._closer = threading.Thread(target=self._close_unused, name="sandbox-closer", daemon=True)
                    self._closer.start()
        if not keep:
            self._discard(sandbox)

    def _discard(self, sandbox: Sandbox) -> None:
        sandbox.close()
        with self._changed:
            self._lent.discard(sandbox)
        self._leave_place()

    def _leave_place(self) -> None:
        with self._changed:
            self._running -= 1
            self._changed.notify()

    def _close_unused(self) -> None:
        """Close sandboxes whose time is up; ends when none is idle."""
        while True:
            with self._changed:
                if not self._idle:
                    self._closer = None
                    return
                remaining = self._idle[0].since + self._idle_seconds - time.monotonic()
                if remaining > 0:
                    self._changed.wait(remaining)
                    continue
                unused = self._idle.pop(0).sandbox
            unused.close()
            self._leave_place()

    def _forget(self) -> None:
        self._changed = threading.Condition()
        self._closed = False
        self._running = 0
        self._idle = []
        self._lent = set()
        self._closer = None


def _closing() -> Unavailable:
    return Unavailable("the node is shutting down", _RETRY_SECONDS)
