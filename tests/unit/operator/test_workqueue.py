"""The queue: each GridNode once at a time, several at once, requests in between kept, failures later each time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gridnode_operator import workqueue
from gridnode_operator.convergence import Outcome
from gridnode_operator.kube import ApiError
from gridnode_operator.metrics import OperatorMetrics
from gridnode_operator.workqueue import Key, WorkQueue

DEMO, OTHER = Key("apps", "demo"), Key("apps", "other")
READY = Outcome(state="Ready", after=60.0)
SETTLED = Outcome(state="Ready", after=0.01, settled=True)
GONE = Outcome(state="Gone", after=None)


class Work:
    """Work that a test lets end, and what was done of it."""

    def __init__(self, result: Callable[[], Outcome] = lambda: READY) -> None:
        self.result = result
        self.begun: list[Key] = []
        self.times: list[float] = []
        self.together = self.most_together = 0
        self.same_twice = False
        self.may_end = threading.Event()
        self.may_end.set()
        self._running: set[Key] = set()
        self._lock = threading.Lock()

    def __call__(self, namespace: str, name: str) -> Outcome:
        key = Key(namespace, name)
        with self._lock:
            self.same_twice |= key in self._running
            self._running.add(key)
            self.begun.append(key)
            self.times.append(time.monotonic())
            self.most_together = max(self.most_together, len(self._running))
        assert self.may_end.wait(10)
        with self._lock:
            self._running.discard(key)
        return self.result()


@asynccontextmanager
async def running(work: Work, workers: int = 2, metrics: OperatorMetrics | None = None) -> AsyncIterator[WorkQueue]:
    queue = WorkQueue(work, workers=workers, metrics=metrics or OperatorMetrics())
    queue.start()
    try:
        yield queue
    finally:
        work.may_end.set()
        await queue.stop()


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_requests_in_a_burst_are_one() -> None:
    async def test() -> None:
        work = Work()
        async with running(work) as queue:
            for _ in range(50):
                queue.request(DEMO)
            await until(lambda: work.begun)
            await asyncio.sleep(0.2)
            assert work.begun == [DEMO]
            assert queue.keys == {DEMO}
            assert queue.running == queue.waiting == 0

    run(test)


def test_request_during_the_work_is_done_after_it_and_never_beside_it() -> None:
    async def test() -> None:
        work = Work()
        work.may_end.clear()
        async with running(work, workers=4) as queue:
            queue.request(DEMO)
            await until(lambda: queue.running == 1)
            for _ in range(3):
                queue.request(DEMO)
            await asyncio.sleep(0.2)
            assert work.begun == [DEMO]
            assert queue.longest_run > 0.15
            work.may_end.set()
            await until(lambda: len(work.begun) == 2)
            await asyncio.sleep(0.2)
            assert work.begun == [DEMO, DEMO]
            assert not work.same_twice

    run(test)


def test_as_many_at_once_as_there_are_workers() -> None:
    async def test() -> None:
        work = Work()
        work.may_end.clear()
        async with running(work, workers=3) as queue:
            for number in range(10):
                queue.request(Key("apps", f"demo-{number}"))
            await until(lambda: queue.waiting == 7 and queue.running == 3)
            work.may_end.set()
            await until(lambda: len(work.begun) == 10)
            assert work.most_together == 3
            assert sorted(set(work.begun)) == sorted(work.begun)

    run(test)


def test_sooner_request_wins_and_a_later_one_delays_nothing() -> None:
    async def test() -> None:
        work = Work()
        async with running(work) as queue:
            queue.request(DEMO, after=30)
            queue.request(DEMO, after=0.1)
            queue.request(DEMO, after=30)
            await until(lambda: work.begun, seconds=2)
            assert work.begun == [DEMO]

    run(test)


def test_looked_at_again_after_the_time_that_the_outcome_says() -> None:
    async def test() -> None:
        work = Work(lambda: Outcome(state="Ready", after=0.3))
        async with running(work) as queue:
            queue.request(DEMO, after=0)
            await until(lambda: len(work.begun) == 4)
            pauses = [later - earlier for earlier, later in zip(work.times, work.times[1:], strict=False)]
            # Up to a fifth sooner, so that many don't come at the same moment.
            assert min(pauses) >= 0.3 * 0.8 - 0.02
            assert queue.keys == {DEMO}

    run(test)


def test_gone_is_forgotten_and_can_come_back() -> None:
    async def test() -> None:
        work = Work(lambda: GONE)
        async with running(work) as queue:
            queue.request(DEMO, after=0)
            await until(lambda: work.begun and not queue.keys)
            queue.request(DEMO, after=0)
            await until(lambda: len(work.begun) == 2 and not queue.keys)

    run(test)


def test_gone_but_requested_meanwhile_is_looked_at_again() -> None:
    async def test() -> None:
        work = Work(lambda: GONE)
        work.may_end.clear()
        async with running(work) as queue:
            queue.request(DEMO, after=0)
            await until(lambda: queue.running == 1)
            queue.request(DEMO)
            work.may_end.set()
            await until(lambda: len(work.begun) == 2 and not queue.keys)

    run(test)


@pytest.mark.parametrize(
    "failure",
    [
        ApiError(500, "InternalError", "no"),
        ApiError(403, "Forbidden", "no"),
        ValueError("a defect"),
        Outcome(state="Degraded", after=None, problem="Broken"),
        Outcome(state="Degraded", after=60.0, problem="Broken"),
    ],
    ids=["server error", "forbidden", "defect", "problem", "problem and resync"],
)
def test_failure_is_tried_again_later_each_time_and_keeps_nobody_else(
    failure: Exception | Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workqueue, "_FIRST_RETRY", 0.05)
    monkeypatch.setattr(workqueue, "_LONGEST_RETRY", 0.2)

    def fail() -> Outcome:
        if isinstance(failure, Outcome):
            return failure
        raise failure

    async def test() -> None:
        work, metrics = Work(fail), OperatorMetrics()
        async with running(work, metrics=metrics) as queue:
            queue.request(DEMO, after=0)
            await until(lambda: len(work.begun) == 6)
            pauses = [later - earlier for earlier, later in zip(work.times, work.times[1:], strict=False)]
            for pause, least in zip(pauses, [0.05, 0.1, 0.2, 0.2, 0.2], strict=True):
                assert pause >= least * 0.8 - 0.01
            assert pauses[-1] < 0.6  # not 0.8, as it would be without an end to the doubling
            work.result = lambda: READY
            queue.request(OTHER, after=0)
            await until(lambda: OTHER in work.begun)
            # All is well again, and so is the pace.
            await until(lambda: queue.running == 0)
            assert queue.keys == {DEMO, OTHER}
        problems = metrics.registry.get_sample_value("gridnode_operator_reconciles_total", {"result": "problem"})
        assert problems == 6

    run(test)


class Looks:
    """Whole reconciles and glances, in the order in which they came."""

    def __init__(self, glance: Callable[[], Outcome | None] = lambda: SETTLED, after: float = 0.01) -> None:
        self.order: list[str] = []
        self.whole = Outcome(state="Ready", after=after, settled=True)
        self._glance = glance

    def work(self, namespace: str, name: str) -> Outcome:
        self.order.append("whole")
        return self.whole

    def glance(self, namespace: str, name: str) -> Outcome | None:
        self.order.append("glance")
        return self._glance()

    @asynccontextmanager
    async def running(self, metrics: OperatorMetrics | None = None) -> AsyncIterator[WorkQueue]:
        queue = WorkQueue(self.work, glance=self.glance, workers=1, metrics=metrics or OperatorMetrics())
        queue.start()
        queue.request(DEMO, after=0)
        try:
            yield queue
        finally:
            await queue.stop()


def test_time_asks_for_glances_and_now_and_then_for_a_whole_look() -> None:
    async def test() -> None:
        looks, metrics = Looks(), OperatorMetrics()
        async with looks.running(metrics):
            await until(lambda: len(looks.order) >= 22)
        assert looks.order[:22] == (["whole"] + 9 * ["glance"]) * 2 + ["whole", "glance"]
        value = metrics.registry.get_sample_value
        assert value("gridnode_operator_glances_total") == looks.order.count("glance")
        assert value("gridnode_operator_reconciles_total", {"result": "ok"}) == looks.order.count("whole")

    run(test)


def test_who_asks_gets_a_whole_look() -> None:
    async def test() -> None:
        looks = Looks(after=60.0)
        async with looks.running() as queue:
            for _ in range(3):
                looks.order.clear()
                await until(lambda: looks.order == ["whole"] and queue.running == 0)
                queue.request(DEMO, after=0)

    run(test)


def test_what_is_not_settled_is_looked_at_as_a_whole_again() -> None:
    async def test() -> None:
        looks = Looks()
        looks.whole = Outcome(state="Progressing", after=0.01)
        async with looks.running():
            await until(lambda: len(looks.order) == 5)
        assert "glance" not in looks.order

    run(test)


def test_glance_that_does_not_do_is_followed_by_a_whole_look_at_once() -> None:
    async def test() -> None:
        looks = Looks(glance=lambda: None)
        async with looks.running():
            await until(lambda: len(looks.order) >= 5)
        assert looks.order[:5] == ["whole", "glance", "whole", "glance", "whole"]

    run(test)


def test_glance_that_fails_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workqueue, "_FIRST_RETRY", 0.02)

    def fail() -> Outcome | None:
        raise ApiError(500, "InternalError", "no")

    async def test() -> None:
        looks = Looks(glance=fail)
        async with looks.running():
            await until(lambda: len(looks.order) >= 4)
        assert looks.order[:4] == ["whole", "glance", "whole", "glance"]

    run(test)


def test_retries_begin_anew_after_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workqueue, "_FIRST_RETRY", 0.1)
    monkeypatch.setattr(workqueue, "_LONGEST_RETRY", 30.0)
    bad = Outcome(state="Degraded", after=None, problem="Broken")
    results = [bad, bad, bad, Outcome(state="Ready", after=0.05), bad, READY]

    async def test() -> None:
        work = Work(lambda: results.pop(0))
        async with running(work) as queue:
            queue.request(DEMO, after=0)
            await until(lambda: not results)
            # 0.1, 0.2, 0.4, then the resync, then 0.1 again rather than 0.8.
            assert work.times[5] - work.times[4] < 0.6

    run(test)


def test_long_series_of_failures_overflows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workqueue, "_FIRST_RETRY", 1e-9)
    monkeypatch.setattr(workqueue, "_LONGEST_RETRY", 1e-6)

    async def test() -> None:
        work = Work(lambda: Outcome(state="Degraded", after=None, problem="Broken"))
        async with running(work) as queue:
            queue.request(DEMO, after=0)
            await until(lambda: len(work.begun) > 1100, seconds=20)

    run(test)


def test_what_is_urgent_comes_first() -> None:
    async def test() -> None:
        work = Work()
        queue = WorkQueue(work, workers=1, metrics=OperatorMetrics())
        keys = [Key("apps", f"node-{number}") for number in range(5)]
        for key in keys:
            queue.request(key, after=0)
        await until(lambda: queue.waiting == 5)
        queue.request(DEMO, after=0, urgent=True)
        # One that waits already, and is not done twice for that.
        queue.request(keys[3], after=0, urgent=True)
        await asyncio.sleep(0.05)
        queue.start()
        await until(lambda: len(work.begun) == 6)
        await asyncio.sleep(0.1)
        assert work.begun == [keys[3], DEMO, keys[0], keys[1], keys[2], keys[4]]
        await queue.stop()

    run(test)


def test_requests_before_the_start_are_kept() -> None:
    async def test() -> None:
        work = Work()
        queue = WorkQueue(work, workers=1, metrics=OperatorMetrics())
        queue.request(DEMO, after=0)
        queue.request(OTHER, after=0)
        await asyncio.sleep(0.1)
        assert work.begun == []
        assert queue.waiting == 2
        queue.start()
        await until(lambda: len(work.begun) == 2)
        await queue.stop()

    run(test)


def test_stop_lets_the_work_end_and_begins_nothing_more() -> None:
    async def test() -> None:
        work = Work()
        work.may_end.clear()
        queue = WorkQueue(work, workers=1, metrics=OperatorMetrics())
        queue.start()
        queue.request(DEMO, after=0)
        queue.request(OTHER, after=0)
        await until(lambda: queue.running == 1 and queue.waiting == 1)
        stopping = asyncio.create_task(queue.stop())
        await asyncio.sleep(0.15)
        assert not stopping.done()
        queue.request(Key("apps", "third"), after=0)
        work.may_end.set()
        await stopping
        await asyncio.sleep(0.1)
        assert len(work.begun) == 1
        assert queue.running == 0

    run(test)


def test_stop_does_not_wait_for_ever() -> None:
    async def test() -> None:
        work = Work()
        work.may_end.clear()
        queue = WorkQueue(work, workers=1, metrics=OperatorMetrics())
        queue.start()
        queue.request(DEMO, after=0)
        await until(lambda: queue.running == 1)
        began = time.monotonic()
        await queue.stop(0.2)
        assert time.monotonic() - began < 2
        work.may_end.set()

    run(test)


def test_states_are_counted() -> None:
    async def test() -> None:
        metrics = OperatorMetrics()

        def count(state: str) -> float | None:
            return metrics.registry.get_sample_value("gridnode_operator_gridnodes", {"state": state})

        work = Work()
        async with running(work, metrics=metrics) as queue:
            queue.request(DEMO, after=0)
            queue.request(OTHER, after=0)
            await until(lambda: count("Ready") == 2)
            work.result = lambda: GONE
            queue.request(DEMO, after=0)
            await until(lambda: count("Ready") == 1)
            assert queue.keys == {OTHER}

    run(test)
