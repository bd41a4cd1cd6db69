"""The pool of warm sandboxes: who gets which, and that none is left over."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from gridnode.averaging.sandbox import AveragingInterrupted, Sandbox, SandboxedPlan, SandboxLimits
from gridnode.averaging.sandbox_pool import SandboxPool
from gridnode.averaging.strategy import AveragingFailed
from gridnode.errors import Unavailable
from tests.support.averaging_plans import endless_plan, running_mean_plan

pytestmark = pytest.mark.process

PLAN = SandboxedPlan("author", b"plan", "operations", SandboxLimits())
OTHER_PLANS = {
    "of another owner": replace(PLAN, owner="other author"),
    "other bytes": replace(PLAN, data=b"other plan"),
    "other limits": replace(PLAN, limits=SandboxLimits(memory=1)),
    "other runtime": replace(PLAN, runtime="torchscript"),
}


class NoProcess:
    """Stands for a sandbox where only lending matters."""

    def __init__(self, plan: SandboxedPlan) -> None:
        self.plan = plan
        self.alive = True
        self.closed = False

    def kill(self) -> None:
        self.alive = False

    def close(self) -> None:
        self.alive = False
        self.closed = True


@pytest.fixture
def started() -> list[NoProcess]:
    """The stand-ins that were started, in order."""
    return []


PoolMaker = Callable[..., SandboxPool]


@pytest.fixture
def pool_of(started: list[NoProcess]) -> Iterator[PoolMaker]:
    def start(plan: SandboxedPlan) -> Sandbox:
        started.append(NoProcess(plan))
        return cast(Sandbox, started[-1])

    with ExitStack() as pools:

        def make(maximum: int = 4, idle_seconds: float = 60, wait_seconds: float = 10) -> SandboxPool:
            pool = SandboxPool(maximum=maximum, idle_seconds=idle_seconds, wait_seconds=wait_seconds, start=start)
            pools.callback(pool.close)
            return pool

        yield make


def use(pool: SandboxPool, plan: SandboxedPlan = PLAN) -> NoProcess:
    with pool.borrow(plan) as sandbox:
        return cast(NoProcess, sandbox)


def test_sandbox_is_used_again_for_the_same_plan(pool_of: PoolMaker) -> None:
    pool = pool_of()

    assert use(pool) is use(pool, replace(PLAN))


@pytest.mark.parametrize("other", OTHER_PLANS.values(), ids=OTHER_PLANS)
def test_sandbox_is_not_used_for_a_plan(pool_of: PoolMaker, other: SandboxedPlan) -> None:
    pool = pool_of()

    assert use(pool) is not use(pool, other)


def test_two_jobs_at_once_get_two_sandboxes(pool_of: PoolMaker) -> None:
    pool = pool_of()

    with pool.borrow(PLAN) as first, pool.borrow(PLAN) as second:
        assert first is not second


def test_sandbox_whose_job_raised_is_closed_and_not_used_again(pool_of: PoolMaker) -> None:
    pool = pool_of(maximum=1)

    def fail() -> None:
        with pool.borrow(PLAN) as sandbox:
            failed.append(cast(NoProcess, sandbox))
            raise AveragingFailed("reason")

    failed: list[NoProcess] = []
    with pytest.raises(AveragingFailed):
        fail()

    assert failed[0].closed
    assert use(pool) is not failed[0]


def test_sandbox_that_died_while_idle_is_replaced(pool_of: PoolMaker) -> None:
    pool = pool_of(maximum=1)
    dead = use(pool)
    dead.alive = False

    assert use(pool) is not dead
    assert dead.closed


def test_least_recently_used_sandbox_gives_way(pool_of: PoolMaker, started: list[NoProcess]) -> None:
    pool = pool_of(maximum=2)
    plans = [replace(PLAN, data=bytes([number])) for number in range(3)]

    for number in (0, 1, 0, 2):
        use(pool, plans[number])

    assert [(sandbox.plan.data[0], sandbox.closed) for sandbox in started] == [(0, False), (1, True), (2, False)]


def test_idle_sandbox_is_closed_after_a_while(pool_of: PoolMaker) -> None:
    pool = pool_of(maximum=1, idle_seconds=0.05)
    sandbox = use(pool)

    deadline = time.monotonic() + 5
    while not sandbox.closed and time.monotonic() < deadline:
        time.sleep(0.01)

    assert sandbox.closed
    assert use(pool) is not sandbox


def test_sandbox_in_use_is_not_closed_as_idle(pool_of: PoolMaker) -> None:
    pool = pool_of(idle_seconds=0.02)
    with pool.borrow(PLAN) as sandbox:
        time.sleep(0.2)
        assert sandbox.alive


def test_no_more_sandboxes_than_the_maximum(pool_of: PoolMaker, started: list[NoProcess]) -> None:
    pool = pool_of(maximum=2, wait_seconds=0.05)

    with pool.borrow(PLAN), pool.borrow(PLAN), pytest.raises(Unavailable, match="busy"), pool.borrow(PLAN):
        pass

    assert len(started) == 2


def test_who_waits_gets_the_sandbox_that_is_given_back(pool_of: PoolMaker) -> None:
    pool = pool_of(maximum=1)
    got: list[NoProcess] = []
    with pool.borrow(PLAN) as sandbox:
        waiting = threading.Thread(target=lambda: got.append(use(pool)))
        waiting.start()
        time.sleep(0.1)
        assert not got
    waiting.join(10)

    assert got == [cast(NoProcess, sandbox)]


def test_who_waits_gets_the_place_of_a_sandbox_that_failed(pool_of: PoolMaker) -> None:
    pool = pool_of(maximum=1)
    got: list[NoProcess] = []
    waiting = threading.Thread(target=lambda: got.append(use(pool)))

    def fail() -> None:
        with pool.borrow(PLAN):
            waiting.start()
            time.sleep(0.1)
            raise AveragingFailed("reason")

    with pytest.raises(AveragingFailed):
        fail()
    waiting.join(10)

    assert len(got) == 1


def test_place_is_free_again_when_a_sandbox_cannot_start() -> None:
    def refuse(_plan: SandboxedPlan) -> Sandbox:
        raise Unavailable("no process", 1)

    pool = SandboxPool(maximum=1, wait_seconds=0.05, start=refuse)
    for _ in range(3):
        with pytest.raises(Unavailable, match="no process"), pool.borrow(PLAN):
            pass
    pool.close()


def test_closed_pool_lends_nothing_and_has_nothing(pool_of: PoolMaker, started: list[NoProcess]) -> None:
    pool = pool_of()
    with pool.borrow(PLAN):
        use(pool)
        pool.close()
        assert [sandbox.alive for sandbox in started] == [False, False]

    assert [sandbox.closed for sandbox in started] == [True, True]
    with pytest.raises(Unavailable, match="shutting down"), pool.borrow(PLAN):
        pass


def test_many_threads_share_few_sandboxes(pool_of: PoolMaker, started: list[NoProcess]) -> None:
    pool = pool_of(maximum=3)
    plans = [replace(PLAN, data=bytes([number])) for number in range(5)]
    busy: set[int] = set()
    wrong: list[str] = []

    def work(offset: int) -> None:
        for number in range(50):
            plan = plans[(offset + number) % len(plans)]
            with pool.borrow(plan) as lent:
                sandbox = cast(NoProcess, lent)
                if id(sandbox) in busy or sandbox.plan != plan or not sandbox.alive:
                    wrong.append(f"{offset} {number}")
                busy.add(id(sandbox))
                if sum(each.alive for each in started) > 3:
                    wrong.append("too many")
                busy.discard(id(sandbox))

    threads = [threading.Thread(target=work, args=[offset]) for offset in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert not wrong


def test_job_after_a_killed_one_works_in_a_new_process() -> None:
    diffs = [[np.full((1000, 1000), number, np.float32)] for number in (1, 3)]
    endless, mean = (
        SandboxedPlan("author", data, "operations", SandboxLimits()) for data in (endless_plan(), running_mean_plan(1))
    )
    pool = SandboxPool(maximum=1)

    def be_killed() -> None:
        with pool.borrow(endless) as sandbox:
            threading.Timer(0.2, os.kill, (sandbox.process_id, signal.SIGKILL)).start()
            sandbox.fold(diffs, lambda _: None)

    try:
        with pytest.raises(AveragingInterrupted):
            be_killed()
        with pool.borrow(mean) as sandbox:
            (average,) = sandbox.fold(diffs, lambda _: None)
            first = sandbox.process_id
        with pool.borrow(mean) as sandbox:
            assert sandbox.process_id == first
    finally:
        pool.close()

    assert (average == 2).all()
