"""Checkpoints and plan variants: read once per worker process, then served from a bounded cache.

Both never change once written, so a cached value can't be stale; a deleted process's values are simply never asked for.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from gridnode.db import binary_copy
from gridnode.db.models import Checkpoint, Plan
from gridnode.db.session import Database
from gridnode.errors import InvalidRequest, NotFound
from gridnode.waiting import may_wait


def read_checkpoint(session: Session, process_id: int, number: int) -> bytes:
    """The encoded State of a checkpoint.

    Raises:
        NotFound: there is none of that number (any more).
    """
    value = binary_copy.read_value(session, "checkpoints", "value", {"process_id": process_id, "number": number})
    if value is None:
        raise NotFound(f"there is no checkpoint {number} of this process")
    return value


def checkpoint_number(session: Session, process_id: int, wanted: str | None) -> int:
    """The number that a caller's ``checkpoint`` means: a number, or ``latest`` (also when None).

    Raises:
        InvalidRequest: it is neither.
        NotFound: the process has no checkpoint.
    """
    if wanted in (None, "", "latest"):
        number = session.scalar(select(func.max(Checkpoint.number)).where(Checkpoint.process_id == process_id))
        if number is None:
            raise NotFound("the process has no checkpoint")
        return number
    if wanted is None or not wanted.isascii() or not wanted.isdigit() or len(wanted) > 18:
        raise InvalidRequest("checkpoint must be a number from 1 on, or 'latest'")
    return int(wanted)


class BlobCache:
    """Least recently used values up to a number of bytes; concurrent readers of one key cause one read."""

    def __init__(self, limit: int, observe: Callable[[bool], None] = lambda hit: None) -> None:
        self._limit = limit
        self._observe = observe
        self._size = 0
        self._values: OrderedDict[Hashable, bytes] = OrderedDict()
        self._loading: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, load: Callable[[], bytes]) -> bytes:
        """The value of ``key``, from ``load()`` the first time. What ``load`` raises is raised, and nothing is kept.

        Raises:
            WouldWait: it has to be loaded, and this is an event loop.
        """
        value = self._lookup(key)
        if value is None:
            may_wait()
        self._observe(value is not None)
        if value is not None:
            return value
        with self._lock:
            loading = self._loading.setdefault(key, threading.Lock())
        try:
            with loading:
                value = self._lookup(key)
                if value is None:
                    value = load()
                    self._keep(key, value)
        finally:
            with self._lock:
                self._loading.pop(key, None)
        return value

    def _lookup(self, key: Hashable) -> bytes | None:
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def _keep(self, key: Hashable, value: bytes) -> None:
        with self._lock:
            # After a load that failed, two readers may load at once.
            self._size += len(value) - len(self._values.get(key, b""))
            self._values[key] = value
            # The newest stays even if it alone passes the limit: a model in use must not be read for every phone.
            while self._size > self._limit and len(self._values) > 1:
                _, dropped = self._values.popitem(last=False)
                self._size -= len(dropped)


class Downloads:
    """What devices download, by key, through the cache."""

    def __init__(self, database: Database, cache: BlobCache) -> None:
        self._database = database
        self._cache = cache

    def checkpoint(self, process_id: int, number: int) -> bytes:
        return self._cache.get(
            ("checkpoint", process_id, number),
            lambda: self._database.transaction(lambda session: read_checkpoint(session, process_id, number)),
        )

    def plan(self, plan_id: int, variant: str) -> bytes:
        """A variant of a plan: ``operations``, ``torchscript`` or ``tfjs``."""
        return self._read("plans", variant, plan_id, "the plan")

    def refusal(self, plan_id: int) -> str | None:
        """Why a plan has no tfjs variant."""
        return self._database.transaction(
            lambda session: session.scalar(select(Plan.tfjs_refusal).where(Plan.id == plan_id))
        )

    def protocol(self, protocol_id: int) -> bytes:
        return self._read("protocols", "value", protocol_id, "the protocol")

    def _read(self, table: str, column: str, row_id: int, name: str) -> bytes:
        def load() -> bytes:
            value = self._database.transaction(
                lambda session: binary_copy.read_value(session, table, column, {"id": row_id})
            )
            if value is None:
                raise NotFound(f"{name} is not there")
            return value

        return self._cache.get((table, column, row_id), load)
