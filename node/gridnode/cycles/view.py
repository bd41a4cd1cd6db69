"""What downloads need to know of a cycle, without a query per download."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import select

from gridnode.cycles.states import RUNNING
from gridnode.db.models import Cycle
from gridnode.db.session import Database

#: Seconds for which a cycle that was running is taken to run still. A download in that time gets the cycle's own
#: checkpoint, so it costs a device nothing but a report that comes too late.
FRESH_SECONDS = 1.0
_MAXIMUM_ENTRIES = 4096


@dataclass(frozen=True, slots=True)
class CycleView:
    """Process and checkpoint of a cycle never change; ``running`` may lag by :data:`FRESH_SECONDS`."""

    process_id: int
    checkpoint_number: int
    running: bool


class CycleViews:
    """Views of recently used cycles. An ended cycle stays ended, so only running ones are looked up again."""

    def __init__(self, database: Database, now: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._now = now
        self._entries: OrderedDict[int, tuple[float, CycleView]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, cycle_id: int) -> CycleView | None:
        """The cycle, or None if there is none of that id."""
        with self._lock:
            entry = self._entries.get(cycle_id)
        if entry is not None:
            looked_up, known = entry
            if self._now() - looked_up < FRESH_SECONDS or not known.running:
                return known
        view = self._load(cycle_id)
        if view is not None:
            # Ids that don't exist are not kept: whoever makes them up would push out those in use.
            self._keep(cycle_id, view)
        return view

    def ended(self, cycle_id: int) -> None:
        """This worker process has just ended the cycle: don't wait for the view to age."""
        with self._lock:
            self._entries.pop(cycle_id, None)

    def _load(self, cycle_id: int) -> CycleView | None:
        row = self._database.transaction(
            lambda session: session.execute(
                select(Cycle.process_id, Cycle.checkpoint_number, Cycle.state).where(Cycle.id == cycle_id)
            ).one_or_none()
        )
        return None if row is None else CycleView(row.process_id, row.checkpoint_number, row.state in RUNNING)

    def _keep(self, cycle_id: int, view: CycleView) -> None:
        with self._lock:
            self._entries[cycle_id] = (self._now(), view)
            self._entries.move_to_end(cycle_id)
            while len(self._entries) > _MAXIMUM_ENTRIES:
                self._entries.popitem(last=False)
