"""How far a process is, and what a cycle came to: the facts that progress events and metrics are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from gridnode.db.models import Assignment, Cycle

# PostgreSQL's avg() also sums squares and raises on overflow: two devices with a loss of 1e200 would make every attempt
# to close their cycle fail. No loss or accuracy that means anything is as large.
_LARGEST_FIGURE = 1e100


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessProgress:
    """How far a process is.

    Attributes:
        process_id: row of the process; events of one process are delivered in order.
        model: ``client_config.name``.
        version: ``client_config.version``.
        completed_cycles: cycles averaged so far.
        num_cycles: cycles until the process is finished; 0 = without end.
        finished: nothing is trained any more, whether all cycles are done or somebody finished it early.
        deleted: the process is being deleted; a master node that lists it should forget it.
    """

    process_id: int
    model: str
    version: str
    completed_cycles: int
    num_cycles: int
    finished: bool = False
    deleted: bool = False

    @property
    def percent_complete(self) -> int:
        """0 to 100, rounded down; 100 says finished, and without end it is 0 until then."""
        if self.finished:
            return 100
        return int(self.completed_cycles * 100 // _cycles_in_all(self.completed_cycles, self.num_cycles))


def progress_ratio(completed_cycles: int, num_cycles: int, *, finished: bool) -> float:
    """:attr:`ProcessProgress.percent_complete` as a number from 0 to 1, not rounded."""
    return 1.0 if finished else completed_cycles / _cycles_in_all(completed_cycles, num_cycles)


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleFigures:
    """What a cycle came to.

    Attributes:
        reports: reports counted.
        accepted: devices ever accepted.
        dropped: devices accepted that did not report: their lease lapsed, or the cycle ended before they were done.
        loss: mean of the losses that devices reported, None if there is none.
        accuracy: mean of the accuracies that devices reported, None if there is none.
        cycle_seconds: from start to end; None while the cycle runs.
    """

    reports: int
    accepted: int
    dropped: int
    loss: float | None
    accuracy: float | None
    cycle_seconds: float | None


def cycle_figures(session: Session, cycle_id: int) -> CycleFigures:
    """Sum up a cycle's assignments.

    In the transaction that ends the cycle, call it after ``state`` and ``closed_at`` are written: before that, devices
    that are still training are not counted as dropped.

    Raises:
        sqlalchemy.exc.NoResultFound: there is no such cycle.
    """
    row = session.execute(_figures_query(cycle_id)).one()
    return CycleFigures(
        reports=row.reports,
        accepted=row.accepted,
        dropped=row.dropped,
        loss=row.loss,
        accuracy=row.accuracy,
        cycle_seconds=None if row.seconds is None else max(0.0, float(row.seconds)),
    )


def _figures_query(cycle_id: int) -> Select[int, int, int, float | None, float | None, int]:
    ended = Cycle.state.not_in(("open", "averaging"))
    dropped = or_(Assignment.state == "lapsed", and_(Assignment.state == "assigned", ended))
    reported = Assignment.state == "reported"
    return (
        select(
            func.count(Assignment.worker_id).filter(reported).label("reports"),
            func.count(Assignment.worker_id).label("accepted"),
            func.count(Assignment.worker_id).filter(dropped).label("dropped"),
            _mean(Assignment.loss, reported).label("loss"),
            _mean(Assignment.accuracy, reported).label("accuracy"),
            func.extract("epoch", Cycle.closed_at - Cycle.started_at).label("seconds"),
        )
        .select_from(Cycle)
        .outerjoin(Assignment, Assignment.cycle_id == Cycle.id)
        .where(Cycle.id == cycle_id)
        .group_by(Cycle.id)
    )


def _mean(column: InstrumentedAttribute[float | None], counted: ColumnElement[bool]) -> ColumnElement[float | None]:
    # NaN and both infinities fail the comparison too: PostgreSQL sorts NaN above everything.
    return func.avg(column).filter(counted, func.abs(column) < _LARGEST_FIGURE)


def _cycles_in_all(completed_cycles: int, num_cycles: int) -> float:
    """The whole that completed cycles are a part of; more than they are, since only finishing completes a process."""
    return max(num_cycles, completed_cycles + 1) if num_cycles > 0 else math.inf
