"""The domain of one node process, wired as the application wires it, without any of its listeners."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from gridnode.averaging.hosted_plan import SandboxLimits
from gridnode.averaging.layout import Array, ModelLayout
from gridnode.averaging.sandbox_pool import SandboxPool
from gridnode.averaging.strategies import Strategies
from gridnode.averaging.strategy import Mean, StoredUpdate
from gridnode.cycles.assignment import Accepted, Rejected, assign_workers
from gridnode.cycles.closing import close_cycle
from gridnode.cycles.intake import Intake, utc_now
from gridnode.cycles.rejections import Rejections
from gridnode.cycles.reports import Committed, Outcome, Report, commit_reports
from gridnode.cycles.service import CycleService
from gridnode.cycles.view import CycleViews
from gridnode.db import binary_copy
from gridnode.db.models import Assignment
from gridnode.db.session import Database
from gridnode.processes.catalog import Catalog, HostedProcess
from tests.support.domain import MEAN, TO_MASTER, Trial, diff
from tests.support.threads import Background

T = TypeVar("T")


class Replica:
    """Several of them on one database stand for several pods; usable as a context manager.

    Args:
        url: the database.
        now: the clock.
        interval: seconds between two looks for due cycles.
    """

    def __init__(self, url: str, *, now: Callable[[], datetime] = utc_now, interval: float = 0.02) -> None:
        self.database = Database(url)
        self.catalog = Catalog(self.database)
        self.views = CycleViews(self.database)
        self.events = 0
        self._sandboxes = SandboxPool()
        self.strategies = Strategies(self._read_plan, self._sandboxes, SandboxLimits())
        rejections = Rejections()
        self.service = CycleService(
            self.database,
            self.catalog,
            self.strategies,
            self.views,
            rejections,
            TO_MASTER,
            event_written=self._event_written,
            interval=interval,
            now=now,
        )
        self.intake = Intake(self.database, self.strategies, self.views, rejections, self.service.cycle_is_full, now)

    def run(self, work: Callable[[Session], T]) -> T:
        """Run a domain function in one transaction."""
        return self.database.transaction(work)

    def request_cycle(self, process: HostedProcess, worker_id: uuid.UUID) -> Accepted | Rejected:
        """Ask for a place, together with whoever else asks this replica."""
        return self.intake.request_cycle(process, worker_id).result(30)

    def report(self, process: HostedProcess, cycle_id: int, report: Report) -> Outcome:
        """Report, together with whoever else reports to this replica."""
        return self.intake.report(process, cycle_id, report).result(30)

    def close(self) -> None:
        """End the background work, if it was started, and close the connections."""
        self.service.stop()
        self.intake.stop()
        self._sandboxes.close()
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_plan(self, process_id: int) -> bytes:
        plan = self.run(lambda s: binary_copy.read_value(s, "processes", "averaging_plan", {"id": process_id}))
        assert plan is not None
        return plan

    def _event_written(self) -> None:
        self.events += 1


class Holding:
    """A transaction of another replica that is left open in the middle; ``commit`` ends it."""

    def __init__(self, database: Database) -> None:
        self.session: Session = database.sessions()

    def close_cycle(self, trial: Trial) -> None:
        closed = close_cycle(self.session, trial.cycle().id, trial.process, MEAN, trial.now, TO_MASTER)
        assert closed is not None

    def report(self, trial: Trial, worker: uuid.UUID) -> Committed:
        return commit_reports(self.session, trial.cycle().id, [diff(worker)], trial.process.layout, MEAN, trial.now)

    def claim(self, worker: uuid.UUID) -> None:
        """The first thing a report does: lock the worker's row."""
        query = select(Assignment).where(Assignment.worker_id == worker).with_for_update(key_share=True)
        assert self.session.scalar(query) is not None

    def ask(self, trial: Trial, worker: uuid.UUID) -> Accepted:
        (answer,) = assign_workers(self.session, trial.process, [worker], trial.now, trial.generator)
        assert isinstance(answer, Accepted)
        return answer

    def commit(self) -> None:
        self.session.commit()
        self.session.close()

    def commit_behind(self, database: Database, work: Background[Any]) -> None:
        """Commit once the work waits for a lock, or is done without."""
        while not work.is_done(0.01) and not database.transaction(_somebody_waits):
            pass
        self.commit()


def _somebody_waits(session: Session) -> bool:
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid()")
    return bool(session.scalars(waiting).one())


class SlowMean(Mean):
    """A mean that takes its time: ``began`` is set when it has begun, and it ends once ``go_on`` is set."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.go_on = threading.Event()

    def average(self, updates: Iterable[StoredUpdate], layout: ModelLayout) -> list[Array]:
        self.began.set()
        assert self.go_on.wait(20)
        return super().average(updates, layout)
