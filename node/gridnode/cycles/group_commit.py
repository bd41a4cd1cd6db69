"""Group commit: what arrives together for one key is committed together.

An item that comes for an idle key is committed at once, by a thread of a pool, with all that has come when the thread
begins. What comes meanwhile forms the next batch. So under load batches grow and the number of transactions does not,
and without load nobody waits for anybody. Nobody needs a thread to wait in.

The technique is that of database logs (DeWitt et al., "Implementation Techniques for Main Memory Database Systems",
1984).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from gridnode.errors import Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")


class GroupCommit(Generic[Item, Result]):
    """Collects items by key and hands them to ``commit`` in batches, one batch of a key at a time.

    Args:
        commit: Gets the key and the items in order of arrival; returns one result for each, an exception to be raised
            for that item alone, or raises for all.
        executor: Where ``commit`` runs; threads of its own if None.
        maximum_batch: Items in one batch at most.
    """

    def __init__(
        self,
        commit: Callable[[Hashable, Sequence[Item]], Sequence[Result | Exception]],
        executor: Executor | None = None,
        maximum_batch: int = 64,
    ) -> None:
        self._commit = commit
        self._executor = executor or ThreadPoolExecutor(thread_name_prefix="commit")
        self._maximum_batch = maximum_batch
        self._lock = threading.Lock()
        # What waits for its commit. A key that nothing waits for and nothing is committed of is not in it.
        self._queues: dict[Hashable, list[tuple[Item, Future[Result]]]] = {}

    def submit(self, key: Hashable, item: Item) -> Future[Result]:
        """Have the item committed.

        Returns:
            Its result, or what happened to it. One that is cancelled before its batch begins is not committed.
        """
        future: Future[Result] = Future()
        with self._lock:
            queue = self._queues.get(key)
            if queue is not None:
                queue.append((item, future))
                return future
            self._queues[key] = [(item, future)]
        self._start(key)
        return future

    def _run(self, key: Hashable) -> None:
        """Commit one batch of a key, and queue for the next one behind the other keys."""
        batch = self._take(key)
        if batch:
            self._lead(key, batch)
        with self._lock:
            if not self._queues[key]:
                del self._queues[key]
                return
        self._start(key)

    def _start(self, key: Hashable) -> None:
        try:
            self._executor.submit(self._run, key)
        except RuntimeError:
            with self._lock:
                waiting = self._queues.pop(key)
            for _, future in waiting:
                if future.set_running_or_notify_cancel():
                    future.set_exception(Unavailable("the node is shutting down, try again", retry_after=1))

    def _take(self, key: Hashable) -> list[tuple[Item, Future[Result]]]:
        with self._lock:
            queue = self._queues[key]
            batch, self._queues[key] = queue[: self._maximum_batch], queue[self._maximum_batch :]
        return [(item, future) for item, future in batch if future.set_running_or_notify_cancel()]

    def _lead(self, key: Hashable, batch: list[tuple[Item, Future[Result]]]) -> None:
        try:
            outcomes = self._commit(key, [item for item, _ in batch])
            if len(outcomes) != len(batch):
                raise ValueError(f"{len(outcomes)} results for {len(batch)} items")
        except Exception as error:
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
