"""The outbox of progress events: written with the change they tell of, claimed by a dispatcher, settled, and purged.

An event is inserted in the transaction that changes the process, so it exists exactly if the change does. Per process,
only the oldest event that the master node has not accepted can be claimed; that keeps them in order however many
replicas post. A claim is a lease: the database connection is not held while an event is posted, and if the claimant
dies the event becomes free again when the lease ends. So the master node may see an event twice; ``event_id`` tells it.

An event that the master node calls wrong in itself, :data:`REFUSALS` times, is set aside, so that it does not hold up
those behind it for ever: it stays in the table, with ``refused_at``, and is posted no more.

All times are the database's: replicas' clocks may differ.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, Select, Update, case, delete, func, or_, select, true, update
from sqlalchemy.orm import Session, aliased

from gridnode.db.models import OutboxEvent
from gridnode.reporting.progress import CycleFigures, ProcessProgress

#: How often the master node may call an event wrong before it is set aside. With the pauses between attempts, about
#: half an hour, in which a master node with a mistake of its own can be mended.
REFUSALS = 20
#: How many events one transaction deletes.
BATCH = 10_000
_LONGEST_ERROR = 500


@dataclass(frozen=True, slots=True)
class ClaimedEvent:
    """An event that nobody else posts until ``leased_until``.

    Attributes:
        attempts: how often it has been claimed, this time included.
        last_error: why the attempt before failed.
    """

    id: int
    process_id: int
    event_id: uuid.UUID
    body: dict[str, Any]
    attempts: int
    leased_until: datetime
    last_error: str | None


def record_progress(
    session: Session,
    progress: ProcessProgress,
    figures: CycleFigures | None = None,
    *,
    node_id: str,
    now: datetime,
    to_master: bool,
) -> None:
    """Insert a progress event in the caller's transaction.

    The caller holds a lock that all changes of the process take (its row's), since events of a process are delivered in
    the order of their ids, and without the lock that need not be the order of the commits.

    Args:
        session: with the transaction that changes the process.
        progress: the process after the change.
        figures: of the cycle that has just ended; None when none has.
        node_id: ``settings.node_id``.
        now: when it happened, for a master node that hears of it hours later.
        to_master: whether a master node is configured. If not, nothing is inserted, as nobody would take it away: a
            master node that is configured later learns the state from the next event, which says where the process is
            and not how far it moved.
    """
    if not to_master:
        return
    event_id = uuid.uuid4()
    session.add(
        OutboxEvent(
            event_id=event_id,
            process_id=progress.process_id,
            body=_body(progress, figures, node_id=node_id, now=now, event_id=event_id),
        )
    )


def claim_due(session: Session, *, limit: int, lease: float) -> list[ClaimedEvent]:
    """Lease up to ``limit`` events that may be posted now, for ``lease`` seconds; one statement."""
    due = _due(limit).cte("due")
    claim = (
        update(OutboxEvent)
        .where(OutboxEvent.id == due.c.id)
        .values(leased_until=func.now() + timedelta(seconds=lease), attempts=OutboxEvent.attempts + 1)
        .returning(
            OutboxEvent.id,
            OutboxEvent.process_id,
            OutboxEvent.event_id,
            OutboxEvent.body,
            OutboxEvent.attempts,
            OutboxEvent.leased_until,
            OutboxEvent.last_error,
        )
        .execution_options(synchronize_session=False)
    )
    return [ClaimedEvent(*row) for row in session.execute(claim)]


def mark_accepted(session: Session, events: Sequence[ClaimedEvent]) -> None:
    """The master node has accepted these: true whoever else may hold their leases by now."""
    session.execute(
        update(OutboxEvent)
        .where(OutboxEvent.id.in_([event.id for event in events]), OutboxEvent.delivered_at.is_(None))
        .values(delivered_at=func.now(), leased_until=None, last_error=None, refused_at=None)
        .execution_options(synchronize_session=False)
    )


def mark_failed(session: Session, event: ClaimedEvent, *, error: str, retry_in: float) -> None:
    """Give an event back, to be posted again in ``retry_in`` seconds; no-op if another has claimed it since."""
    session.execute(_give_back(event, error=error, retry_in=retry_in))


def mark_invalid(session: Session, event: ClaimedEvent, *, error: str, retry_in: float) -> bool:
    """Give an event back as :func:`mark_failed`, or set it aside if the master node has called it wrong often enough.

    Returns:
        Whether it was set aside.
    """
    refusals = OutboxEvent.refusals + 1
    given_back = _give_back(event, error=error, retry_in=retry_in).values(
        refusals=refusals, refused_at=case((refusals >= REFUSALS, func.now()))
    )
    return session.scalar(given_back.returning(OutboxEvent.refused_at)) is not None


def purge(session: Session, *, delivered: timedelta, refused: timedelta) -> int:
    """Delete up to :data:`BATCH` events that were accepted, or set aside, longer ago than that; gives how many."""
    old = (
        select(OutboxEvent.id)
        .where(
            or_(OutboxEvent.delivered_at < func.now() - delivered, OutboxEvent.refused_at < func.now() - refused),
        )
        .limit(BATCH)
    )
    return cast("CursorResult[Any]", session.execute(delete(OutboxEvent).where(OutboxEvent.id.in_(old)))).rowcount


def _give_back(event: ClaimedEvent, *, error: str, retry_in: float) -> Update:
    return (
        update(OutboxEvent)
        .where(
            OutboxEvent.id == event.id,
            OutboxEvent.delivered_at.is_(None),
            OutboxEvent.leased_until == event.leased_until,
        )
        .values(
            next_attempt_at=func.now() + timedelta(seconds=retry_in),
            leased_until=None,
            last_error=error[:_LONGEST_ERROR],
        )
        .execution_options(synchronize_session=False)
    )


def _body(
    progress: ProcessProgress, figures: CycleFigures | None, *, node_id: str, now: datetime, event_id: uuid.UUID
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "percent_complete": progress.percent_complete,
        "model_id": progress.model,
        "version": progress.version,
        "node_id": node_id,
        "event_id": str(event_id),
        "occurred_at": now.isoformat(),
        "cycle": progress.completed_cycles,
        "cycles": progress.num_cycles,
        "finished": progress.finished,
        "deleted": progress.deleted,
        "state": progress.state,
        "failure": progress.failure,
        "running": None if progress.running is None else _as_json(asdict(progress.running)),
    }
    if figures is not None:
        names = {"number": "cycle_number", "state": "cycle_state", "started_at": "cycle_started_at"}
        body |= {names.get(name, name): value for name, value in _as_json(asdict(figures)).items()}
    return body


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}


def _due(limit: int) -> Select[int]:
    """Ids of events that may be posted now, locked."""
    # Walks the index from process to process: with a master node away for days there may be very many events of few
    # processes, and every replica asks every second.
    first = aliased(OutboxEvent)
    oldest = (
        select(first.id, first.process_id)
        .where(first.delivered_at.is_(None), first.refused_at.is_(None))
        .order_by(first.process_id, first.id)
        .limit(1)
        .cte("oldest", recursive=True)
    )
    following = aliased(OutboxEvent)
    of_next_process = (
        select(following.id, following.process_id)
        .where(
            following.delivered_at.is_(None),
            following.refused_at.is_(None),
            following.process_id > oldest.c.process_id,
        )
        .order_by(following.process_id, following.id)
        .limit(1)
        .lateral("of_next_process")
    )
    oldest = oldest.union_all(
        select(of_next_process.c.id, of_next_process.c.process_id).join_from(oldest, of_next_process, true())
    )

    candidate = aliased(OutboxEvent)
    return (
        select(candidate.id)
        .join(oldest, oldest.c.id == candidate.id)
        .where(
            # Again on the locked row: another replica may have posted it since this statement began.
            candidate.delivered_at.is_(None),
            candidate.refused_at.is_(None),
            candidate.next_attempt_at <= func.now(),
            or_(candidate.leased_until.is_(None), candidate.leased_until <= func.now()),
        )
        .order_by(candidate.next_attempt_at)
        .limit(limit)
        .with_for_update(of=candidate, skip_locked=True)
    )
