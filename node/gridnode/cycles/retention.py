"""Deleting what nobody needs any more. Each function takes a session, is bounded, and safe in several replicas.

A number of deleted rows as large as the bound means that there may be more.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import Session

from gridnode.db.models import Checkpoint, Cycle, UpdateSum

#: How long assignments of an ended cycle are kept, so that a report repeated late is still recognised.
ASSIGNMENT_LIFETIME = timedelta(days=7)
#: Rows that one transaction deletes: the tens of milliseconds that it may hold others up.
BATCH = 10_000
#: The same for rows with a value, which may have the size of a model.
VALUES_BATCH = 100


def delete_update_sums(session: Session, cycle_id: int) -> None:
    """Delete the stored sums of one ended cycle; its checkpoint holds what they were for."""
    session.execute(delete(UpdateSum).where(UpdateSum.cycle_id == cycle_id))


def delete_leftover_sums(session: Session) -> int:
    """Delete stored sums whose cycle has ended or is gone: a replica died before it could."""
    running = select(Cycle.id).where(Cycle.state.in_(("open", "averaging")))
    leftover = select(UpdateSum.id).where(UpdateSum.cycle_id.not_in(running)).limit(VALUES_BATCH)
    return _deleted(session.execute(delete(UpdateSum).where(UpdateSum.id.in_(leftover))))


def delete_old_assignments(session: Session, now: datetime) -> int:
    """Delete assignments of cycles that ended long ago and that no worker's rest between cycles depends on."""
    return _deleted(session.execute(_OLD_ASSIGNMENTS, {"before": now - ASSIGNMENT_LIFETIME, "batch": BATCH}))


def delete_old_checkpoints(session: Session, keep: int) -> int:
    """Keep the first checkpoint and the last ``keep`` of each process."""
    newest = (
        select(Checkpoint.process_id, func.max(Checkpoint.number).label("number"))
        .group_by(Checkpoint.process_id)
        .subquery()
    )
    old = (
        select(Checkpoint.process_id, Checkpoint.number)
        .join(newest, newest.c.process_id == Checkpoint.process_id)
        .where(Checkpoint.number > 1, Checkpoint.number <= newest.c.number - max(1, keep))
        .limit(VALUES_BATCH)
    ).subquery()
    return _deleted(
        session.execute(
            delete(Checkpoint).where(Checkpoint.process_id == old.c.process_id, Checkpoint.number == old.c.number)
        )
    )


# Walks the primary key from cycle to cycle: a join would read every assignment there is, each minute.
_OLD_ASSIGNMENTS = text(
    """
    WITH RECURSIVE present (cycle_id) AS (
        (SELECT cycle_id FROM assignments ORDER BY cycle_id LIMIT 1)
        UNION ALL
        SELECT (SELECT a.cycle_id FROM assignments AS a WHERE a.cycle_id > present.cycle_id ORDER BY a.cycle_id LIMIT 1)
        FROM present WHERE present.cycle_id IS NOT NULL)
    DELETE FROM assignments WHERE ctid = ANY (ARRAY(
        SELECT old.row_id
        FROM present
        JOIN cycles AS c ON c.id = present.cycle_id
        JOIN processes AS p ON p.id = c.process_id
        CROSS JOIN LATERAL (SELECT a.ctid AS row_id FROM assignments AS a WHERE a.cycle_id = c.id LIMIT :batch) AS old
        WHERE c.closed_at < :before
          AND (p.state = 'finished'
               OR c.number + coalesce((p.server_config ->> 'do_not_reuse_workers_until_cycle')::bigint, 1)
                  <= p.completed_cycles + 1)
        LIMIT :batch))
    """
)


def _deleted(result: object) -> int:
    return int(getattr(result, "rowcount", 0))
