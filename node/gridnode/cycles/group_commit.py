"""Group commit: what arrives together for one key is committed together.

The first thread that comes for an idle key leads: it takes all that is waiting and runs it in one go, the others just
wait for their result. What comes meanwhile forms the next batch, led by the first of its own threads. So under load
batches grow and the number of transactions does not, and without load nobody waits for anybody.

The technique is that of database logs (DeWitt et al., "Implementation Techniques for Main Memory Database Systems",
1984).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    woken: threading.Event = field(default_factory=threading.Event)
    leads: bool = False
    outcome: Result | Exception | None = None


class GroupCommit(Generic[Item, Result]):
    """Collects items by key and hands them to ``commit`` in batches.

    Args:
        commit: Gets the key and the items in order of arrival; returns one result for each, an exception to be raised
            for that item alone, or raises for all.
        maximum_batch: Items in one batch at most.
    """

    def __init__(
        self,
        commit: Callable[[Hashable, Sequence[Item]], Sequence[Result | Exception]],
        maximum_batch: int = 64,
    ) -> None:
        self._commit = commit
        self._maximum_batch = maximum_batch
        self._lock = threading.Lock()
        self._queues: dict[Hashable, list[_Waiting[Item, Result]]] = {}

    def submit(self, key: Hashable, item: Item) -> Result:
        """Wait until the item is committed and return its result, or raise what happened to it."""
        mine: _Waiting[Item, Result] = _Waiting(item)
        with self._lock:
            queue = self._queues.get(key)
            if queue is None:
                self._queues[key] = []
                batch = [mine]
            else:
                queue.append(mine)
                batch = []
        if not batch:
            mine.woken.wait()
            if mine.leads:
                batch = self._take(key)
        if batch:
            self._lead(key, batch)
        if isinstance(mine.outcome, Exception):
            raise mine.outcome
        return mine.outcome  # type: ignore[return-value]

    def _take(self, key: Hashable) -> list[_Waiting[Item, Result]]:
        with self._lock:
            queue = self._queues[key]
            batch, self._queues[key] = queue[: self._maximum_batch], queue[self._maximum_batch :]
        return batch

    def _lead(self, key: Hashable, batch: list[_Waiting[Item, Result]]) -> None:
        try:
            outcomes = self._commit(key, [waiting.item for waiting in batch])
            for waiting, outcome in zip(batch, outcomes, strict=True):
                waiting.outcome = outcome
        except Exception as error:
            for waiting in batch:
                waiting.outcome = error
        finally:
            self._hand_over(key)
            for waiting in batch:
                waiting.woken.set()

    def _hand_over(self, key: Hashable) -> None:
        with self._lock:
            queue = self._queues[key]
            if not queue:
                del self._queues[key]
                return
            successor = queue[0]
        successor.leads = True
        successor.woken.set()
