"""Which GridNodes are to be looked at, and when: one at a time each, several at once, later after each failure.

Requests for the same GridNode become one, as in Kubernetes' own controllers (client-go's workqueue). A look that
nothing but time asks for is a short one, if the last was settled.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from gridnode_operator.convergence import Outcome
from gridnode_operator.kube import ApiError
from gridnode_operator.metrics import OperatorMetrics

logger = logging.getLogger(__name__)

Seen = TypeVar("Seen", Outcome, Outcome | None)

#: Seconds to wait for more of what comes in bursts.
_GATHER: Final = 0.05
_FIRST_RETRY: Final = 0.5
_LONGEST_RETRY: Final = 60.0
#: Short looks between two whole ones: whatever the watches did not tell, and a glance does not see, is found then.
_GLANCES: Final = 9
#: Of a delay, the part that is random, so that many do not come at the same moment.
_JITTER: Final = 0.2
#: For timers: kopf's own context of a handler has the object in it that was told of, which would be kept until then.
NO_CONTEXT: Final = contextvars.Context()


class Key(NamedTuple):
    """A GridNode."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(slots=True)
class _Entry:
    timer: asyncio.TimerHandle | None = None
    due: float = 0.0
    running_since: float | None = None
    requested: bool = False
    urgent: bool = False
    # Which of its places among those that are due is its own; one that became urgent has left another behind.
    place: int | None = None
    failures: int = 0
    # Whether a glance is not enough: somebody asked, or the last look left something to do.
    whole: bool = True
    glances: int = 0


class WorkQueue:
    """Runs ``work`` for keys in threads. Used within one event loop.

    Args:
        work: Does one reconcile; blocks.
        glance: Takes a short look instead; None if it does not do.
        workers: How many at once.
        metrics: Where it is counted.
    """

    def __init__(
        self,
        work: Callable[[str, str], Outcome],
        *,
        glance: Callable[[str, str], Outcome | None] = lambda namespace, name: None,
        workers: int,
        metrics: OperatorMetrics,
    ) -> None:
        self._work = work
        self._glance = glance
        self._metrics = metrics
        self._workers = workers
        self._entries: dict[Key, _Entry] = {}
        self._ready: asyncio.PriorityQueue[tuple[bool, int, Key]] = asyncio.PriorityQueue()
        self._order = itertools.count()
        self._tasks: list[asyncio.Task[None]] = []
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="reconcile")
        self._stopped = False

    def start(self) -> None:
        """Begin to work; until then requests are kept."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run()) for _ in range(self._workers)]

    async def stop(self, seconds: float = 20.0) -> None:
        """End what runs, begin nothing more. What was left undone, the next operator does."""
        self._stopped = True
        for entry in self._entries.values():
            if entry.timer is not None:
                entry.timer.cancel()
        deadline = time.monotonic() + seconds
        while self.running and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def request(self, key: Key, after: float = _GATHER, *, urgent: bool = False) -> None:
        """Have a GridNode looked at in ``after`` seconds, or when it is due anyway, if that is sooner.

        Args:
            urgent: Before all that are not, when there are more than workers: somebody waits for it.
        """
        entry = self._entries.setdefault(key, _Entry())
        entry.whole = True
        is_more_urgent = urgent and not entry.urgent
        entry.urgent |= urgent
        if entry.running_since is not None:
            entry.requested = True
            return
        self._schedule(key, entry, after)
        if is_more_urgent and entry.place is not None:
            self._is_due(key, entry)

    @property
    def keys(self) -> frozenset[Key]:
        """All that are looked at now and then."""
        return frozenset(self._entries)

    @property
    def waiting(self) -> int:
        """Those whose time has come, but all workers are busy."""
        return self._ready.qsize()

    @property
    def running(self) -> int:
        """Those that are worked on."""
        return sum(entry.running_since is not None for entry in self._entries.values())

    @property
    def longest_run(self) -> float:
        """Seconds since the oldest of those began."""
        since = [entry.running_since for entry in self._entries.values() if entry.running_since is not None]
        return time.monotonic() - min(since) if since else 0.0

    def _schedule(self, key: Key, entry: _Entry, after: float) -> None:
        if self._stopped:
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + after
        if entry.timer is not None:
            if entry.due <= due:
                return
            entry.timer.cancel()
        entry.due = due
        entry.timer = loop.call_at(due, self._is_due, key, entry, context=NO_CONTEXT)

    def _is_due(self, key: Key, entry: _Entry) -> None:
        entry.place = next(self._order)
        self._ready.put_nowait((not entry.urgent, entry.place, key))

    async def _run(self) -> None:
        while not self._stopped:
            _, place, key = await self._ready.get()
            entry = self._entries.get(key)
            if entry is None or entry.place != place:
                continue
            entry.timer, entry.place, entry.requested, entry.urgent = None, None, False, False
            entry.running_since = time.monotonic()
            may_glance = not entry.whole and entry.glances < _GLANCES
            entry.whole = False
            try:
                outcome, glanced = await self._attempt(key, may_glance=may_glance)
                entry.glances = entry.glances + 1 if glanced else 0
            finally:
                entry.running_since = None
            self._finish(key, entry, outcome)

    def _finish(self, key: Key, entry: _Entry, outcome: Outcome) -> None:
        self._metrics.observe_state(key, outcome.state)
        entry.failures = entry.failures + 1 if outcome.problem is not None else 0
        entry.whole |= not outcome.settled
        after = outcome.after
        if outcome.problem is not None:
            retry = min(_LONGEST_RETRY, _FIRST_RETRY * 2 ** min(entry.failures - 1, 16))
            after = retry if after is None else min(after, retry)
        if entry.requested:
            self._schedule(key, entry, _GATHER)
        elif after is None:
            del self._entries[key]
        else:
            self._schedule(key, entry, after * random.uniform(1 - _JITTER, 1))  # noqa: S311 - no secret

    async def _attempt(self, key: Key, *, may_glance: bool) -> tuple[Outcome, bool]:
        """What it has come to, and whether a glance was enough."""
        began = time.monotonic()
        loop = asyncio.get_running_loop()
        if may_glance:
            seen = await loop.run_in_executor(self._pool, self._guarded, self._glance, key)
            if seen is not None:
                self._metrics.glances.inc()
                return seen, seen.settled
        outcome = await loop.run_in_executor(self._pool, self._guarded, self._work, key)
        self._metrics.observe_reconcile(time.monotonic() - began, outcome.problem)
        return outcome, False

    def _guarded(self, look: Callable[[str, str], Seen], key: Key) -> Seen | Outcome:
        try:
            outcome = look(*key)
        except ApiError as error:
            level = logging.INFO if error.is_transient else logging.WARNING
            logger.log(level, "the API server failed a reconcile: %s", error, extra={"gridnode": str(key)})
            return Outcome(state="Unknown", after=None, problem=error.reason)
        except Exception:
            # A defect in one GridNode's handling must not keep the others from being looked after.
            logger.exception("a reconcile failed", extra={"gridnode": str(key)})
            return Outcome(state="Unknown", after=None, problem="Internal")
        if outcome is not None and outcome.problem is not None:
            logger.warning(
                "not as declared: %s", outcome.problem, extra={"gridnode": str(key), "reason": outcome.problem}
            )
        return outcome
