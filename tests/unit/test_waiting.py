"""Nothing waits on an event loop; it says so before it has begun."""

from __future__ import annotations

import asyncio

import pytest

from gridnode.checkpoints.store import BlobCache
from gridnode.db.session import Database, Prepared
from gridnode.waiting import WouldWait, may_wait


def test_thread_may_wait() -> None:
    may_wait()


def test_event_loop_may_not() -> None:
    async def wait() -> None:
        may_wait()

    with pytest.raises(WouldWait):
        asyncio.run(wait())


def test_thread_beside_an_event_loop_may_wait() -> None:
    async def wait() -> None:
        await asyncio.get_running_loop().run_in_executor(None, may_wait)

    asyncio.run(wait())


def test_database_is_not_asked_on_an_event_loop() -> None:
    database = Database("postgresql+psycopg2://nobody@127.0.0.1:1/nothing", deadline=0.1)

    async def ask() -> None:
        with pytest.raises(WouldWait):
            database.transaction(lambda _: pytest.fail("it was asked"))
        with pytest.raises(WouldWait):
            database.execute(Prepared("nothing", (), "SELECT 1"), [])

    asyncio.run(ask())


def test_value_in_memory_is_given_on_an_event_loop_and_no_other() -> None:
    seen: list[bool] = []
    cache = BlobCache(100, seen.append)
    cache.get("known", lambda: b"value")

    async def get() -> None:
        assert cache.get("known", lambda: pytest.fail("it was read")) == b"value"
        with pytest.raises(WouldWait):
            cache.get("unknown", lambda: pytest.fail("it was read"))

    asyncio.run(get())
    # What was put off is not counted; the thread that takes it up will.
    assert seen == [False, True]
