"""Many phones at once: who wakes up when, in a bounded number of threads."""

from __future__ import annotations

import functools
import heapq
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from threadpoolctl import threadpool_limits

from gridnode.errors import GridNodeError, InvalidRequest
from gridnode.simulation.availability import Availability
from gridnode.simulation.contract import Refused, Transport
from gridnode.simulation.datasets import Examples
from gridnode.simulation.device_client import open_client
from gridnode.simulation.evaluation import Scoreboard
from gridnode.simulation.phone import Behaviour, Phone, Session, Target
from gridnode.simulation.plan_cache import PlanCache, Runtime
from gridnode.simulation.tally import Figures, Tally

_LONGEST_BACKOFF = 10.0

End = Literal["finished", "cycles", "time", "stopped", "unreachable", "failed"]


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop before the process is finished. None: no limit.

    Attributes:
        cycles: cycles to take part in.
        seconds: time since the start.
        unreachable: seconds without any answer from the node.
    """

    cycles: int | None = None
    seconds: float | None = None
    unreachable: float = 60.0


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds until a phone wakes up again; each wait is stretched by up to half, at random.

    Attributes:
        after_report: it has done its part and looks for the next cycle.
        after_dropout: it has vanished and comes back.
        after_failure: the first wait for a node that does not answer; doubles up to 10 s.
        at_least: lower bound, whatever the node says.
    """

    after_report: float = 0.5
    after_dropout: float = 5.0
    after_failure: float = 0.5
    at_least: float = 0.05


@dataclass(frozen=True, slots=True)
class Population:
    """How the phones of a fleet behave: fractions and probabilities between 0 and 1.

    Attributes:
        slow_fraction: of the phones trains ``slow_factor`` times as long as the others.
        speed_spread: how unequal all phones are: training takes a phone ``exp(speed_spread · |z|)`` times as long as
            this machine, with z from a normal distribution. 0: equal; 1: one in twenty takes more than seven times.
    """

    transport: Literal["http", "ws", "mixed"] = "http"
    dropout: float = 0.0
    duplicate_report: float = 0.0
    slow_fraction: float = 0.0
    slow_factor: float = 5.0
    speed_spread: float = 0.0


def build_phones(
    url: str,
    target: Target,
    shards: Sequence[Examples],
    population: Population,
    seed: int,
    *,
    runtime: Runtime = "numpy",
    held_out: Examples | None = None,
) -> list[Phone]:
    """One phone for each shard, each with a random generator of its own, so that a seed gives the same phones.

    Args:
        runtime: what runs the training plan.
        held_out: score each checkpoint that phones download on these.
    """
    if not 0 <= population.slow_fraction <= 1:
        raise InvalidRequest(f"slow_fraction is {population.slow_fraction}; it must lie between 0 and 1.")
    if population.speed_spread < 0:
        raise InvalidRequest(f"speed_spread is {population.speed_spread}; it can't be negative.")
    plans = PlanCache(runtime)
    scoreboard = None if held_out is None else Scoreboard(held_out)
    root = np.random.default_rng(seed)
    slow = set(root.permutation(len(shards))[: round(population.slow_fraction * len(shards))].tolist())
    slowness = np.exp(population.speed_spread * np.abs(root.standard_normal(len(shards))))
    phones = []
    for number, (shard, rng) in enumerate(zip(shards, root.spawn(len(shards)), strict=True)):
        behaviour = Behaviour(
            dropout=population.dropout,
            slowness=float(slowness[number]) * (population.slow_factor if number in slow else 1.0),
            duplicate_report=population.duplicate_report,
        )
        transport = _transport(population, number)
        # Checked here, once, rather than in a thread.
        open_client(url, transport).close()
        connect = functools.partial(open_client, url, transport)
        phones.append(Phone(number, shard, target, connect, plans, rng, behaviour, scoreboard))
    return phones


def _transport(population: Population, number: int) -> Transport:
    if population.transport == "mixed":
        return "ws" if number % 2 else "http"
    return population.transport


@dataclass(slots=True)
class Fleet:
    """Runs phones until the process is finished, a limit is reached, or someone stops it.

    Args:
        concurrency: sessions under way at the same time.
        availability: when which phone is there; None: always.
    """

    phones: Sequence[Phone]
    seed: int
    concurrency: int = 8
    limits: Limits = field(default_factory=Limits)
    pace: Pace = field(default_factory=Pace)
    availability: Availability | None = None
    tally: Tally = field(init=False)
    end: End | None = field(init=False, default=None)
    error: GridNodeError | Exception | None = field(init=False, default=None)

    _changed: threading.Condition = field(init=False, default_factory=threading.Condition)
    _stop: threading.Event = field(init=False, default_factory=threading.Event)
    _due: list[tuple[float, int]] = field(init=False, default_factory=list)
    _failures: list[int] = field(init=False, default_factory=list)
    _answered_at: float = field(init=False, default=0.0)
    _let_in: bool = field(init=False, default=False)
    _rng: np.random.Generator = field(init=False)
    _threads: list[threading.Thread] = field(init=False, default_factory=list)
    _blas: threadpool_limits | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if not self.phones or self.concurrency < 1:
            raise InvalidRequest("a fleet needs at least one phone and a concurrency of at least 1.")
        self.tally = Tally()
        self._rng = np.random.default_rng(self.seed)

    def start(self) -> None:
        """Start the threads; phones wake up in random order within the first moments."""
        now = self._answered_at = self.tally.started_at = time.monotonic()
        self._failures = [0] * len(self.phones)
        # Phones already share the cores: with BLAS threads of their own they train at half the speed.
        self._blas = threadpool_limits(1, user_api="blas")
        order = self._rng.permutation(len(self.phones)).tolist()
        self._due = [(self._next_time(number, now + 0.001 * rank), number) for rank, number in enumerate(order)]
        heapq.heapify(self._due)
        self._threads = [
            threading.Thread(target=self._work, name=f"phones-{number}", daemon=True)
            for number in range(min(self.concurrency, len(self.phones)))
        ]
        for thread in self._threads:
            thread.start()

    def stop(self, end: End = "stopped") -> None:
        """Let no phone wake up any more; sessions under way end soon."""
        with self._changed:
            if self.end is None:
                self.end = end
            self._stop.set()
            self._changed.notify_all()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until all sessions have ended; False if they have not after ``seconds``."""
        deadline = None if seconds is None else time.monotonic() + seconds
        for thread in self._threads:
            thread.join(None if deadline is None else max(deadline - time.monotonic(), 0.0))
        if any(thread.is_alive() for thread in self._threads):
            return False
        if self._blas is not None:
            self._blas.restore_original_limits()
            self._blas = None
        return True

    def run(self) -> Figures:
        """Start, wait for the end and give the figures.

        Raises:
            Exception: what no phone can do anything about, such as a process that does not exist.
        """
        self.start()
        self.wait()
        return self.result()

    def result(self) -> Figures:
        """The figures of a fleet that has ended; raises what ended it if that was an error."""
        if self.error is not None:
            raise self.error
        return self.tally.figures()

    def _work(self) -> None:
        while (number := self._next_phone()) is not None:
            try:
                session = self._session_of(self.phones[number])
            except Exception as error:  # a thread must not die silently: the error ends the run and is raised there
                with self._changed:
                    self.error = self.error or error
                self.stop("failed")
                return
            self.tally.add(session)
            self._after(number, session)

    def _session_of(self, phone: Phone) -> Session:
        try:
            return phone.take_part(self._stop)
        except Refused as refused:
            # Over WebSocket an error has no status, so 'the database is away' looks like 'no such process'. Once this
            # fleet has been let in, it is the former.
            if refused.status is not None or not self._let_in:
                raise
            return Session("unreachable", error=refused.message, ended_at=time.monotonic())

    def _next_phone(self) -> int | None:
        """Wait for the next phone that is due; None when the run is over."""
        with self._changed:
            while not self._stop.is_set():
                now = time.monotonic()
                if self.limits.seconds is not None and now - self.tally.started_at >= self.limits.seconds:
                    self.stop("time")
                    break
                if self._due and self._due[0][0] <= now:
                    return heapq.heappop(self._due)[1]
                self._changed.wait(self._seconds_to_sleep(now))
        return None

    def _seconds_to_sleep(self, now: float) -> float | None:
        """Until the next phone is due or the time is up; None: until something changes."""
        moments = [self._due[0][0]] if self._due else []
        if self.limits.seconds is not None:
            moments.append(self.tally.started_at + self.limits.seconds)
        return min(moments) - now if moments else None

    def _after(self, number: int, session: Session) -> None:
        """Stop if the session says so, else set the phone's next time."""
        if session.outcome == "finished":
            self.stop("finished")
        elif self.limits.cycles is not None and self.tally.cycles_seen > self.limits.cycles:
            self.stop("cycles")
        with self._changed:
            now = time.monotonic()
            if session.outcome != "unreachable":
                self._failures[number], self._answered_at, self._let_in = 0, now, True
            elif now - self._answered_at > self.limits.unreachable:
                self.stop("unreachable")
            heapq.heappush(self._due, (self._next_time(number, now + self._pause(number, session)), number))
            self._changed.notify()

    def _next_time(self, number: int, earliest: float) -> float:
        """When the phone wakes up that would at this time if it were there."""
        if self.availability is None:
            return earliest
        return earliest + self.availability.wait(number, earliest - self.tally.started_at)

    def _pause(self, number: int, session: Session) -> float:
        if session.outcome == "rejected" and session.retry_after is not None:
            # The node has spread these already.
            return max(session.retry_after, self.pace.at_least)
        if session.outcome == "unreachable":
            self._failures[number] += 1
            backoff = self.pace.after_failure * float(2 ** min(self._failures[number] - 1, 10))
            pause = max(session.retry_after or 0.0, min(backoff, _LONGEST_BACKOFF))
        else:
            pause = self.pace.after_dropout if session.outcome == "dropped" else self.pace.after_report
        return max(pause * (1 + 0.5 * float(self._rng.random())), self.pace.at_least)
