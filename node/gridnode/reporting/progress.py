"""How far a process is, and what a cycle came to: the facts that progress events and metrics are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from gridnode.db.models import Assignment, Cycle, Process

# PostgreSQL's avg() also sums squares and raises on overflow: two devices with a loss of 1e200 would make every attempt
# to close their cycle fail. No loss or accuracy that means anything is as large.
_LARGEST_FIGURE = 1e100


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningCycle:
    """The cycle that runs: what it has, what it waits for, and until when.

    Attributes:
        number: of the cycle, from 1.
        state: ``open`` or ``averaging``.
        deadline: when it ends if it has what it needs; None if only its reports end it.
        accepted: devices ever accepted; it needs ``min_workers``.
        working: devices accepted that have not reported and may still.
        reports: reports counted; it needs ``min_diffs``, and ends at ``max_diffs`` at once.
    """

    number: int
    state: str
    started_at: datetime
    deadline: datetime | None
    accepted: int
    working: int
    reports: int
    min_workers: int
    min_diffs: int
    max_diffs: int | None


def running_cycle_of(cycle: Cycle) -> RunningCycle:
    """What a cycle's row says of it."""
    return RunningCycle(
        number=cycle.number,
        state=cycle.state,
        started_at=cycle.started_at,
        deadline=cycle.deadline,
        accepted=cycle.accepted,
        working=cycle.working,
        reports=cycle.reports,
        min_workers=cycle.min_workers,
        min_diffs=cycle.min_diffs,
        max_diffs=cycle.max_diffs,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessProgress:
    """How far a process is.

    Attributes:
        process_id: row of the process; events of one process are delivered in order.
        model: ``client_config.name``.
        version: ``client_config.version``.
        completed_cycles: cycles averaged so far.
        num_cycles: cycles until the process is finished; 0 = without end.
        state: of the process; see :mod:`gridnode.processes.states`.
        failure: why it failed, None if it has not.
        running: the cycle that runs now, None if none does.
        deleted: the process is being deleted; a master node that lists it should forget it.
    """

    process_id: int
    model: str
    version: str
    completed_cycles: int
    num_cycles: int
    state: str = "active"
    failure: str | None = None
    running: RunningCycle | None = None
    deleted: bool = False

    @property
    def finished(self) -> bool:
        """Nothing is trained any more, whether all cycles are done or somebody finished it early."""
        return self.state == "finished"

    @property
    def percent_complete(self) -> int:
        """0 to 100, rounded down; 100 says finished, and without end it is 0 until then."""
        if self.finished:
            return 100
        return int(self.completed_cycles * 100 // _cycles_in_all(self.completed_cycles, self.num_cycles))


def process_progress(session: Session, process_id: int, *, deleted: bool = False) -> ProcessProgress:
    """How far a process is, as its rows say.

    Raises:
        sqlalchemy.exc.NoResultFound: there is no such process.
    """
    process = session.get_one(Process, process_id, populate_existing=True)
    running = None
    if not deleted:
        query = select(Cycle).where(Cycle.process_id == process_id, Cycle.state.in_(("open", "averaging")))
        running = session.scalar(query.execution_options(populate_existing=True))
    return ProcessProgress(
        process_id=process_id,
        model=process.name,
        version=process.version,
        completed_cycles=process.completed_cycles,
        num_cycles=int(process.server_config.get("num_cycles") or 0),
        state=process.state,
        failure=process.failure,
        running=None if running is None else running_cycle_of(running),
        deleted=deleted,
    )


def progress_ratio(completed_cycles: int, num_cycles: int, *, finished: bool) -> float:
    """:attr:`ProcessProgress.percent_complete` as a number from 0 to 1, not rounded."""
    return 1.0 if finished else completed_cycles / _cycles_in_all(completed_cycles, num_cycles)


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleFigures:
    """What a cycle came to.

    Attributes:
        number: of the cycle.
        state: of the cycle; see :mod:`gridnode.cycles.states`.
        reports: reports counted.
        accepted: devices ever accepted.
        dropped: devices accepted that did not report: their lease lapsed, or the cycle ended before they were done.
        rejected: cycle requests rejected while it ran, by reason; see :mod:`gridnode.cycles.rejections`.
        loss: mean of the losses that devices reported, with the smallest and largest one; None if there is none.
        accuracy: likewise, of the accuracies.
        cycle_seconds: from start to end; None while the cycle runs.
    """

    number: int
    state: str
    started_at: datetime
    reports: int
    accepted: int
    dropped: int
    rejected: Mapping[str, int] = field(default_factory=dict)
    loss: float | None = None
    loss_min: float | None = None
    loss_max: float | None = None
    accuracy: float | None = None
    accuracy_min: float | None = None
    accuracy_max: float | None = None
    cycle_seconds: float | None = None


def cycle_figures(session: Session, cycle_id: int) -> CycleFigures:
    """Sum up a cycle's assignments.

    In the transaction that ends the cycle, call it after ``state`` and ``closed_at`` are written: before that, devices
    that are still training are not counted as dropped.

    Raises:
        sqlalchemy.exc.NoResultFound: there is no such cycle.
    """
    row = session.execute(_figures_query(cycle_id)).one()
    seconds = row.seconds
    facts = {name: value for name, value in row._mapping.items() if name != "seconds"}
    return CycleFigures(**facts, cycle_seconds=None if seconds is None else max(0.0, float(seconds)))


def _figures_query(cycle_id: int) -> Select[Any]:
    ended = Cycle.state.not_in(("open", "averaging"))
    dropped = or_(Assignment.state == "lapsed", and_(Assignment.state == "assigned", ended))
    reported = Assignment.state == "reported"
    return (
        select(
            Cycle.number,
            Cycle.state,
            Cycle.started_at,
            Cycle.rejected,
            func.count(Assignment.worker_id).filter(reported).label("reports"),
            func.count(Assignment.worker_id).label("accepted"),
            func.count(Assignment.worker_id).filter(dropped).label("dropped"),
            _over_devices(func.avg, Assignment.loss, reported).label("loss"),
            _over_devices(func.min, Assignment.loss, reported).label("loss_min"),
            _over_devices(func.max, Assignment.loss, reported).label("loss_max"),
            _over_devices(func.avg, Assignment.accuracy, reported).label("accuracy"),
            _over_devices(func.min, Assignment.accuracy, reported).label("accuracy_min"),
            _over_devices(func.max, Assignment.accuracy, reported).label("accuracy_max"),
            func.extract("epoch", Cycle.closed_at - Cycle.started_at).label("seconds"),
        )
        .select_from(Cycle)
        .outerjoin(Assignment, Assignment.cycle_id == Cycle.id)
        .where(Cycle.id == cycle_id)
        .group_by(Cycle.id)
    )


def _over_devices(
    aggregate: Callable[..., Any], column: InstrumentedAttribute[float | None], counted: ColumnElement[bool]
) -> ColumnElement[float | None]:
    # NaN and both infinities fail the comparison too: PostgreSQL sorts NaN above everything.
    over: ColumnElement[float | None] = aggregate(column).filter(counted, func.abs(column) < _LARGEST_FIGURE)
    return over


def _cycles_in_all(completed_cycles: int, num_cycles: int) -> float:
    """The whole that completed cycles are a part of; more than they are, since only finishing completes a process."""
    return max(num_cycles, completed_cycles + 1) if num_cycles > 0 else math.inf
