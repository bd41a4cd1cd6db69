"""What devices download is read once and then served from a bounded amount of memory."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from gridnode.checkpoints.store import BlobCache
from gridnode.errors import NotFound
from tests.support.threads import Background


class Source:
    """Counts how often each key is read."""

    def __init__(self) -> None:
        self.reads: list[str] = []

    def read(self, key: str, size: int = 1) -> bytes:
        self.reads.append(key)
        return key.encode() * size


def test_value_is_read_once() -> None:
    source, cache = Source(), BlobCache(100)
    assert [cache.get("a", partial(source.read, "a")) for _ in range(3)] == [b"a"] * 3
    assert source.reads == ["a"]


def test_hits_and_misses_are_observed() -> None:
    seen: list[bool] = []
    cache = BlobCache(100, seen.append)
    for _ in range(3):
        cache.get("a", lambda: b"x")
    assert seen == [False, True, True]


def test_readers_of_one_key_at_once_cause_one_read_and_hold_up_nobody_else() -> None:
    source, cache, go_on = Source(), BlobCache(100), threading.Event()

    def slow() -> bytes:
        assert go_on.wait(10)
        return source.read("slow")

    waiting = [Background(partial(cache.get, "slow", slow)) for _ in range(5)]
    assert cache.get("quick", partial(source.read, "quick")) == b"quick"
    go_on.set()
    assert [each.result() for each in waiting] == [b"slow"] * 5
    assert source.reads == ["quick", "slow"]


def test_least_recently_used_goes_first() -> None:
    source, cache = Source(), BlobCache(30)
    for key in ("a", "b", "c", "a", "d"):
        cache.get(key, partial(source.read, key, 10))
    source.reads.clear()
    for key in ("a", "c", "d", "b"):
        cache.get(key, partial(source.read, key, 10))
    assert source.reads == ["b"]


def test_value_larger_than_the_cache_is_kept_until_the_next() -> None:
    source, cache = Source(), BlobCache(30)
    cache.get("small", partial(source.read, "small"))
    for _ in range(2):
        assert len(cache.get("x", partial(source.read, "x", 1000))) == 1000
    assert source.reads == ["small", "x"]
    cache.get("y", partial(source.read, "y"))
    cache.get("x", partial(source.read, "x", 1000))
    assert source.reads == ["small", "x", "y", "x"]


def test_read_that_fails_is_not_kept_and_can_succeed_later() -> None:
    cache = BlobCache(100)

    def fail() -> bytes:
        raise NotFound("it is not there")

    for _ in range(2):
        with pytest.raises(NotFound):
            cache.get("a", fail)
    assert cache.get("a", lambda: b"value") == b"value"


def test_failed_reads_leave_nothing_in_memory() -> None:
    cache = BlobCache(100)

    def fail() -> bytes:
        raise NotFound("it is not there")

    for key in range(50):
        with pytest.raises(NotFound):
            cache.get(key, fail)
    assert not cache._loading


def test_value_that_several_read_after_a_failure_is_counted_once() -> None:
    cache, fails, go_on, begun = BlobCache(25), threading.Event(), threading.Event(), threading.Event()

    def fail() -> bytes:
        begun.set()
        assert fails.wait(10)
        raise NotFound("not now")

    def read() -> bytes:
        begun.set()
        assert go_on.wait(10)
        return b"x" * 10

    failing = Background(partial(cache.get, "a", fail))
    assert begun.wait(10)
    begun.clear()
    waiting = Background(partial(cache.get, "a", read))
    assert not waiting.is_done(0.05)
    fails.set()
    with pytest.raises(NotFound):
        failing.result()
    assert begun.wait(10)
    # Comes after the failure, and so may read beside the one that has waited for it.
    coming = Background(partial(cache.get, "a", read))
    assert not coming.is_done(0.05)
    go_on.set()
    assert [waiting.result(), coming.result()] == [b"x" * 10] * 2
    assert cache._size == 10
