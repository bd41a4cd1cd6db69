"""Deleting what nobody needs any more, a little at a time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final, cast

from sqlalchemy import CursorResult, Delete, delete, func, select
from sqlalchemy.orm import Session

from gridnode.db.session import Database
from gridnode_operator.master.db.models import Event, ReportCount
from gridnode_operator.master.devices.losses import sum_up_voices

#: Rows of one transaction: small, so that nothing waits for it.
_AT_ONCE: Final = 5000
_CYCLES_AT_ONCE: Final = 200
_RATES_KEPT: Final = timedelta(days=7)


def delete_old(database: Database, *, event_days: int) -> int:
    """Delete events older than ``event_days`` and rates older than a week, and sum up what single devices said.

    Returns:
        How many events were deleted.

    Raises:
        Unavailable: the database is away.
    """
    while database.transaction(lambda session: sum_up_voices(session, _CYCLES_AT_ONCE)) == _CYCLES_AT_ONCE:
        pass
    deleted = 0
    while True:
        done = database.transaction(lambda session: _delete_some(session, timedelta(days=event_days)))
        deleted += done
        if done < _AT_ONCE:
            return deleted


def _delete_some(session: Session, events_kept: timedelta) -> int:
    old = select(Event.id).where(Event.received_at < func.now() - events_kept).limit(_AT_ONCE)
    events = _execute(session, delete(Event).where(Event.id.in_(old)))
    _execute(session, delete(ReportCount).where(ReportCount.minute < func.now() - _RATES_KEPT))
    return events


def _execute(session: Session, statement: Delete) -> int:
    result = session.execute(statement.execution_options(synchronize_session=False))
    return cast("CursorResult[Any]", result).rowcount
