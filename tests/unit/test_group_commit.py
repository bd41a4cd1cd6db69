"""What arrives together is committed together, everybody gets its own result, and nobody is forgotten."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from functools import partial

import pytest

from gridnode.cycles.group_commit import GroupCommit
from tests.support.threads import Background, at_once


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


def submit_behind(group: GroupCommit[int, int], ledger: Ledger, items: Sequence[int]) -> list[Background[int]]:
    """Hand in items, in this order, while a first batch with item 1 is being committed."""
    threads = [Background(partial(group.submit, "key", 1))]
    assert ledger.began.wait(10)
    for number, item in enumerate(items, start=1):
        threads.append(Background(partial(group.submit, "key", item)))
        while len(group._queues["key"]) < number:
            threads[-1].is_done(0.001)
    return threads


def test_item_alone_is_committed_at_once() -> None:
    ledger = Ledger()
    assert GroupCommit(ledger.commit).submit("key", 7) == 70
    assert ledger.batches == [("key", [7])]


def test_what_comes_meanwhile_is_committed_together_in_order_of_arrival() -> None:
    ledger = Ledger(hold=True)
    threads = submit_behind(GroupCommit(ledger.commit), ledger, [2, 3, 4, 5])
    ledger.go_on.set()
    assert [thread.result() for thread in threads] == [10, 20, 30, 40, 50]
    assert ledger.batches == [("key", [1]), ("key", [2, 3, 4, 5])]


def test_batch_is_bounded_and_the_rest_comes_next() -> None:
    ledger = Ledger(hold=True)
    threads = submit_behind(GroupCommit(ledger.commit, maximum_batch=2), ledger, [2, 3, 4, 5, 6])
    ledger.go_on.set()
    assert [thread.result() for thread in threads] == [10, 20, 30, 40, 50, 60]
    assert [items for _, items in ledger.batches] == [[1], [2, 3], [4, 5], [6]]


def test_error_of_one_item_is_its_own() -> None:
    ledger = Ledger(hold=True)
    threads = submit_behind(GroupCommit(ledger.commit), ledger, [2, -3, 4])
    ledger.go_on.set()
    assert [threads[number].result() for number in (0, 1, 3)] == [10, 20, 40]
    with pytest.raises(ValueError, match="-3"):
        threads[2].result()


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
    threads = [Background(partial(group.submit, "key", 1))]
    assert began.wait(10)
    for number, item in enumerate([2, 3, 4], start=1):
        threads.append(Background(partial(group.submit, "key", item)))
        while len(group._queues["key"]) < number:
            threads[-1].is_done(0.001)
    go_on.set()
    assert threads[0].result() == 1
    for thread in threads[1:3]:
        with pytest.raises(OSError, match="away"):
            thread.result()
    assert threads[3].result() == 4


def test_wrong_number_of_results_is_an_error_and_blocks_nobody() -> None:
    group: GroupCommit[int, int] = GroupCommit(lambda _key, items: [0] * (len(items) + 1))
    for _ in range(2):
        with pytest.raises(ValueError, match="zip"):
            group.submit("key", 1)


def test_keys_do_not_wait_for_each_other() -> None:
    ledger = Ledger(hold=True)
    group = GroupCommit(ledger.commit)
    slow = Background(partial(group.submit, "slow", 1))
    assert ledger.began.wait(10)
    ledger.began.clear()
    other = Background(partial(group.submit, "other", 2))
    assert ledger.began.wait(10)
    ledger.go_on.set()
    assert (slow.result(), other.result()) == (10, 20)


def test_many_threads_get_their_own_results_and_a_key_is_committed_by_one_at_a_time() -> None:
    ledger = Ledger()
    group = GroupCommit(ledger.commit, maximum_batch=5)
    items = range(1, 201)
    outcomes: list[int] = []

    def submit_some(start: int) -> None:
        for item in items[start::20]:
            assert group.submit(item % 3, item) == 10 * item
            outcomes.append(item)

    assert at_once([partial(submit_some, start) for start in range(20)]) == [None] * 20
    assert sorted(outcomes) == list(items)
    assert sorted(item for _, batch in ledger.batches for item in batch) == list(items)
    assert not ledger.overlapped
    assert max(len(batch) for _, batch in ledger.batches) <= 5
    # Nothing is kept of keys that are idle again.
    assert group._queues == {}
