"""The background service of a worker process: ends due cycles, takes back lapsed places, deletes what is over.

Every worker process of every replica runs one; locks in the database make each thing happen once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from gridnode.averaging.strategies import Strategies
from gridnode.averaging.strategy import AveragingFailed
from gridnode.cycles import retention
from gridnode.cycles.assignment import lapse_leases
from gridnode.cycles.closing import averaging_cycles, close_cycle, fail_process, mark_due
from gridnode.cycles.intake import utc_now
from gridnode.cycles.rejections import Rejections, write_rejections
from gridnode.cycles.view import CycleViews
from gridnode.db.models import Assignment, Cycle
from gridnode.db.session import Database
from gridnode.errors import GridNodeError
from gridnode.processes.catalog import Catalog
from gridnode.reporting import metrics, outbox
from gridnode.reporting.announcer import Announcer

log = logging.getLogger(__name__)

_RETENTION_INTERVAL = 60.0
_RETENTION_PAUSE = 0.1
_DELIVERED_EVENTS_LIFETIME = timedelta(days=7)
_REFUSED_EVENTS_LIFETIME = timedelta(days=30)
#: Cycles averaged at once in one worker process: a slow averaging plan must not hold up every other process.
_CLOSERS = 2


class CycleService:
    """Runs in threads of its own between :meth:`start` and :meth:`stop`.

    Args:
        database: The node's.
        catalog: The node's processes.
        strategies: How each process averages.
        views: Told which cycles have ended.
        rejections: Of this worker process; written into their cycles.
        announcer: Tells the master node.
        event_written: Called after an event was written, so that it is posted at once.
        interval: Seconds between two looks for due cycles.
        keep_checkpoints: Checkpoints kept per process; None keeps all.
        now: The clock.
    """

    def __init__(
        self,
        database: Database,
        catalog: Catalog,
        strategies: Strategies,
        views: CycleViews,
        rejections: Rejections,
        announcer: Announcer,
        *,
        event_written: Callable[[], None],
        interval: float = 1.0,
        keep_checkpoints: int | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._strategies = strategies
        self._views = views
        self._rejections = rejections
        self._announcer = announcer
        self._event_written = event_written
        self._interval = interval
        self._keep_checkpoints = keep_checkpoints
        self._now = now
        self._wake = threading.Event()
        self._stopping = False
        self._more_is_over = False
        self._closing: set[int] = set()
        self._closing_lock = threading.Lock()
        self._closers = ThreadPoolExecutor(_CLOSERS, thread_name_prefix="closer")
        self._thread = threading.Thread(target=self._run, name="cycles", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after what is being averaged just now; what is not done, another replica does."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=30)
        self._closers.shutdown(wait=True, cancel_futures=True)

    def cycle_is_full(self, _cycle_id: int) -> None:
        """A cycle got its last report: look now instead of at the next interval."""
        self._wake.set()

    def _run(self) -> None:
        next_retention = time.monotonic() + _RETENTION_INTERVAL
        while not self._stopping:
            self._wake.clear()
            self._guarded(self._sweep)
            self._guarded(self._write_rejections)
            pause = self._interval
            if time.monotonic() >= next_retention:
                next_retention = time.monotonic() + _RETENTION_INTERVAL
                self._guarded(self._delete_what_is_over)
                if self._more_is_over:
                    # One batch between two sweeps, so that due cycles never wait for it.
                    next_retention = 0.0
                    pause = min(self._interval, _RETENTION_PAUSE)
            self._wake.wait(pause)

    def _guarded(self, work: Callable[[], None]) -> None:
        """A sweep that fails must not end the sweeping."""
        try:
            work()
        except GridNodeError as error:
            # Most often the database is away, and whoever noticed first has warned of it.
            log.info("a background task will be tried again", extra={"reason": error.message})
        except Exception:
            log.exception("a background task failed and is tried again")

    def _sweep(self) -> None:
        now = self._now()
        self._database.transaction(lambda session: mark_due(session, now))
        for cycle_id, process_id in self._database.transaction(averaging_cycles):
            self._close_in_background(cycle_id, process_id)
        self._database.transaction(lambda session: _lapse_everywhere(session, now))

    def _write_rejections(self) -> None:
        counts = self._rejections.unwritten()
        if counts:
            # Once only: whoever holds a row for long must not hold up the sweep.
            written = self._database.transaction(lambda session: write_rejections(session, counts), deadline=0)
            for process_id in written:
                self._rejections.forget(process_id, counts[process_id])

    def _close_in_background(self, cycle_id: int, process_id: int) -> None:
        with self._closing_lock:
            if cycle_id in self._closing or self._stopping:
                return
            self._closing.add(cycle_id)

        def close() -> None:
            try:
                self._guarded(lambda: self._close(cycle_id, process_id))
            finally:
                with self._closing_lock:
                    self._closing.discard(cycle_id)

        self._closers.submit(close)

    def _close(self, cycle_id: int, process_id: int) -> None:
        process = self._catalog.by_id(process_id)
        if process is None:
            return
        strategy = self._strategies.of(process)
        extra = {"model": process.name, "version": process.version, "cycle_id": cycle_id}
        rejected = self._rejections.of(process_id)
        try:
            closed = self._database.transaction(
                lambda session: close_cycle(
                    session, cycle_id, process, strategy, self._now(), self._announcer, rejected
                )
            )
        except AveragingFailed as failure:
            reason = str(failure)
            log.error("averaging failed, the process stops until it is resumed", extra=extra | {"reason": reason})
            self._database.transaction(
                lambda session: fail_process(session, process_id, reason, self._now(), self._announcer)
            )
            self._event_written()
            return
        self._views.ended(cycle_id)
        if closed is None:
            return
        self._rejections.forget(process_id, rejected)
        log.info(
            "cycle %d completed",
            closed.number,
            extra=extra | {"reports": closed.figures.reports, "seconds": closed.figures.cycle_seconds},
        )
        metrics.observe_cycle_end(
            process.name,
            process.version,
            closed.figures,
            averaged=True,
            min_diffs_seconds=closed.seconds_to_min_diffs,
        )
        self._event_written()
        self._database.transaction(lambda session: retention.delete_update_sums(session, cycle_id))

    def _delete_what_is_over(self) -> None:
        """Delete a batch of everything that is over, each in a short transaction of its own."""
        now, keep = self._now(), self._keep_checkpoints
        self._more_is_over = False
        steps = [
            (retention.delete_leftover_sums, retention.VALUES_BATCH),
            (lambda session: retention.delete_old_assignments(session, now), retention.BATCH),
            (_purge_events, outbox.BATCH),
        ]
        if keep is not None:
            steps.append((lambda session: retention.delete_old_checkpoints(session, keep), retention.VALUES_BATCH))
        for delete_batch, batch in steps:
            self._more_is_over |= self._database.transaction(delete_batch) >= batch


def _purge_events(session: Session) -> int:
    return outbox.purge(session, delivered=_DELIVERED_EVENTS_LIFETIME, refused=_REFUSED_EVENTS_LIFETIME)


def _lapse_everywhere(session: Session, now: datetime) -> None:
    """Take back lapsed places in all open cycles that nobody else is just working on."""
    lapsing = (
        select(func.count())
        .where(Assignment.cycle_id == Cycle.id, Assignment.state == "assigned", Assignment.lease_until <= now)
        .correlate(Cycle)
        .scalar_subquery()
    )
    due = select(Cycle.id).where(Cycle.state == "open", lapsing > 0).with_for_update(skip_locked=True, key_share=True)
    for cycle_id in session.scalars(due).all():
        lapse_leases(session, cycle_id, now)
