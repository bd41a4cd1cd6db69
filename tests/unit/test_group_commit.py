"""What arrives together is committed together, everything gets its own result, and nothing is forgotten."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest

from gridnode.cycles.group_commit import GroupCommit
from gridnode.errors import Unavailable
from tests.support.threads import at_once


class Ledger:
    """Commits batches one after another; ``hold`` keeps the first from ending until ``go_on`` is set."""

    def __init__(self, *, hold: bool = False) -> None:
        self.batches: list[tuple[Hashable, list[int]]] = []
        self.running: set[Hashable] = set()
        self.overlapped = False
        self.began = threading.Event()
        self.go_on = threading.Event()
        if not hold:
            self.go_on.set()

    def commit(self, key: Hashable, items: Sequence[int]) -> Sequence[int | Exception]:
        self.overlapped |= key in self.running
        self.running.add(key)
        self.batches.append((key, list(items)))
        self.began.set()
        assert self.go_on.wait(10)
        self.running.discard(key)
        return [ValueError(str(item)) if item < 0 else 10 * item for item in items]


def submit_behind(group: GroupCommit[int, int], ledger: Ledger, items: Sequence[int]) -> list[Future[int]]:
    """Hand in items, in this order, while a first batch with item 1 is being committed."""
    first = group.submit("key", 1)
    assert ledger.began.wait(10)
    return [first, *(group.submit("key", item) for item in items)]


def test_item_alone_is_committed_at_once() -> None:
    ledger = Ledger()
    assert GroupCommit(ledger.commit).submit("key", 7).result(10) == 70
    assert ledger.batches == [("key", [7])]


def test_what_comes_meanwhile_is_committed_together_in_order_of_arrival() -> None:
    ledger = Ledger(hold=True)
    futures = submit_behind(GroupCommit(ledger.commit), ledger, [2, 3, 4, 5])
    ledger.go_on.set()
    assert [future.result(10) for future in futures] == [10, 20, 30, 40, 50]
    assert ledger.batches == [("key", [1]), ("key", [2, 3, 4, 5])]


def test_batch_is_bounded_and_the_rest_comes_next() -> None:
    ledger = Ledger(hold=True)
    futures = submit_behind(GroupCommit(ledger.commit, maximum_batch=2), ledger, [2, 3, 4, 5, 6])
    ledger.go_on.set()
    assert [future.result(10) for future in futures] == [10, 20, 30, 40, 50, 60]
    assert [items for _, items in ledger.batches] == [[1], [2, 3], [4, 5], [6]]


def test_error_of_one_item_is_its_own() -> None:
    ledger = Ledger(hold=True)
    futures = submit_behind(GroupCommit(ledger.commit), ledger, [2, -3, 4])
    ledger.go_on.set()
    assert [futures[number].result(10) for number in (0, 1, 3)] == [10, 20, 40]
    with pytest.raises(ValueError, match="-3"):
        futures[2].result(10)


def test_error_of_the_commit_is_everybodys_and_the_next_batch_is_committed() -> None:
    go_on, began = threading.Event(), threading.Event()
    group: GroupCommit[int, int]

    def commit(_key: Hashable, items: Sequence[int]) -> Sequence[int]:
        began.set()
        assert go_on.wait(10)
        if 2 in items:
            raise OSError("the database is away")
        return items

    group = GroupCommit(commit, maximum_batch=2)
    futures = [group.submit("key", 1)]
    assert began.wait(10)
    futures += [group.submit("key", item) for item in (2, 3, 4)]
    go_on.set()
    assert futures[0].result(10) == 1
    for future in futures[1:3]:
        with pytest.raises(OSError, match="away"):
            future.result(10)
    assert futures[3].result(10) == 4


def test_wrong_number_of_results_is_an_error_and_blocks_nobody() -> None:
    group: GroupCommit[int, int] = GroupCommit(lambda _key, items: [0] * (len(items) + 1))
    for _ in range(2):
        with pytest.raises(ValueError, match="2 results for 1 items"):
            group.submit("key", 1).result(10)


def test_keys_do_not_wait_for_each_other() -> None:
    ledger = Ledger(hold=True)
    group = GroupCommit(ledger.commit)
    slow = group.submit("slow", 1)
    assert ledger.began.wait(10)
    ledger.began.clear()
    other = group.submit("other", 2)
    assert ledger.began.wait(10)
    ledger.go_on.set()
    assert (slow.result(10), other.result(10)) == (10, 20)


def test_many_threads_get_their_own_results_and_a_key_is_committed_by_one_at_a_time() -> None:
    ledger = Ledger()
    group = GroupCommit(ledger.commit, maximum_batch=5)
    items = range(1, 201)
    outcomes: list[int] = []

    def submit_some(start: int) -> None:
        for item in items[start::20]:
            assert group.submit(item % 3, item).result(10) == 10 * item
            outcomes.append(item)

    assert at_once([partial(submit_some, start) for start in range(20)]) == [None] * 20
    assert sorted(outcomes) == list(items)
    assert sorted(item for _, batch in ledger.batches for item in batch) == list(items)
    assert not ledger.overlapped
    assert max(len(batch) for _, batch in ledger.batches) <= 5
    # Nothing is kept of keys that are idle again; a batch's results are there a moment before it is at its end.
    limit = time.monotonic() + 10
    while group._queues and time.monotonic() < limit:
        time.sleep(0.001)
    assert group._queues == {}


def test_keys_with_much_to_do_take_turns() -> None:
    ledger = Ledger(hold=True)
    with ThreadPoolExecutor(1) as one_thread:
        group = GroupCommit(ledger.commit, one_thread, maximum_batch=1)
        futures = submit_behind(group, ledger, [2, 3])
        futures.append(group.submit("other", 4))
        ledger.go_on.set()
        assert [future.result(10) for future in futures] == [10, 20, 30, 40]
    assert [key for key, _ in ledger.batches] == ["key", "other", "key", "key"]


def test_what_is_given_up_before_its_batch_begins_is_not_committed() -> None:
    ledger = Ledger(hold=True)
    futures = submit_behind(GroupCommit(ledger.commit), ledger, [2, 3])
    assert futures[1].cancel()
    assert not futures[0].cancel()
    ledger.go_on.set()
    assert futures[2].result(10) == 30
    assert ledger.batches == [("key", [1]), ("key", [3])]


def test_nothing_waits_for_ever_when_the_threads_are_shut_down() -> None:
    ledger = Ledger(hold=True)
    threads = ThreadPoolExecutor(1)
    group = GroupCommit(ledger.commit, threads)
    futures = submit_behind(group, ledger, [2, 3])
    threads.shutdown(wait=False)
    ledger.go_on.set()
    assert futures[0].result(10) == 10
    for future in [*futures[1:], group.submit("other", 4)]:
        with pytest.raises(Unavailable):
            future.result(10)
