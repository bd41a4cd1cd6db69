"""Accepting devices into the running cycle, or sending them away with a time to come back.

:func:`assign_workers` serves all devices that ask for one process at the same moment in one transaction. It looks
only at the running cycle and at the asking workers' own rows, so its cost does not grow with the number of past
cycles.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Uuid, func, select, text, update
from sqlalchemy.orm import Session

from gridnode.cycles.patience import expected_end, timeout_seconds
from gridnode.db.models import Assignment, Cycle, Process
from gridnode.db.session import Database, Prepared
from gridnode.processes.catalog import HostedProcess
from gridnode.reporting.metrics import RejectionReason


@dataclass(frozen=True, slots=True)
class Accepted:
    """The worker has a place in this cycle. ``again``: it had it before, this is the answer to a repeated request."""

    cycle_id: int
    again: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """The worker has no place. ``timeout`` is in seconds, None when asking again is pointless."""

    reason: RejectionReason
    timeout: int | None


def place_new_workers(
    database: Database, process: HostedProcess, worker_ids: Sequence[uuid.UUID], now: datetime
) -> dict[uuid.UUID, Accepted]:
    """Give places to those workers that were never in a cycle, if there is room for all of the workers.

    That is the common case, and done with one statement that is a transaction of its own.

    Returns:
        The workers that got a place. What becomes of the others, :func:`assign_workers` decides.
    """
    lease_until = now + timedelta(seconds=process.server_config.assignment_lease)
    workers = [str(worker_id) for worker_id in dict.fromkeys(worker_ids)]
    limit = process.server_config.max_workers
    rows = database.execute(_PLACE_NEW, [process.id, workers, now, lease_until, limit])
    return {uuid.UUID(row.worker_id): Accepted(row.cycle_id) for row in rows}


def assign_workers(
    session: Session,
    process: HostedProcess,
    worker_ids: Sequence[uuid.UUID],
    now: datetime,
    generator: random.Random,
) -> list[Accepted | Rejected]:
    """Give the workers places in the running cycle, as far as there are any.

    Holds the cycle's row lock until commit, so that places are never given twice.

    Returns:
        One answer per worker, in their order.
    """
    cycle = _lock_open_cycle(session, process)
    if cycle is None:
        rejection = _why_nobody_is_accepted(session, process, now, generator)
        return [rejection] * len(worker_ids)
    answers: dict[uuid.UUID, Accepted | Rejected] = {}
    candidates, returning = _without_past_participants(session, process, cycle, worker_ids, now, generator, answers)
    if process.server_config.pool_selection == "random":
        generator.shuffle(candidates)
    places = _free_places(session, process, cycle, len(candidates), now)
    accepted, surplus = candidates[:places], candidates[places:]
    if accepted:
        _place(session, process, cycle, accepted, len(returning.intersection(accepted)), now)
        answers.update({worker_id: Accepted(cycle.id) for worker_id in accepted})
    if surplus:
        opens = [_earliest_lease_end(session, cycle), cycle.deadline, _expected_end(process, cycle, now)]
        for worker_id in surplus:
            answers[worker_id] = Rejected(RejectionReason.CYCLE_FULL, timeout_seconds(opens, now, generator))
    return [answers[worker_id] for worker_id in worker_ids]


def lapse_leases(session: Session, cycle_id: int, now: datetime) -> int:
    """Take back the places of devices that vanished: their lease is over and they have not reported.

    The caller holds the cycle's row lock. A device that is just reporting is left alone (its row is locked), and one
    whose place was taken may still report while the cycle is open.

    Returns:
        Number of places that became free.
    """
    due = (
        select(Assignment.worker_id)
        .where(Assignment.cycle_id == cycle_id, Assignment.state == "assigned", Assignment.lease_until <= now)
        .with_for_update(skip_locked=True)
    )
    lapsed = session.execute(
        update(Assignment)
        .where(Assignment.cycle_id == cycle_id, Assignment.worker_id.in_(due))
        .values(state="lapsed")
        .execution_options(synchronize_session=False)
    ).rowcount  # type: ignore[attr-defined]
    if lapsed:
        session.execute(
            update(Cycle)
            .where(Cycle.id == cycle_id)
            .values(slots=Cycle.slots - lapsed)
            .execution_options(synchronize_session=False)
        )
    return int(lapsed)


def _why_nobody_is_accepted(
    session: Session, process: HostedProcess, now: datetime, generator: random.Random
) -> Rejected:
    state = session.scalar(select(Process.state).where(Process.id == process.id))
    if state == "finished" or state is None:
        return Rejected(RejectionReason.FINISHED, None)
    if state in ("paused", "failed"):
        # Somebody has to act first; a minute is soon enough and costs little.
        return Rejected(RejectionReason(state), timeout_seconds([now + timedelta(seconds=60)], now, generator))
    # Most averaging takes a fraction of a second, and the fleet idles until it is asked back.
    return Rejected(RejectionReason.AVERAGING, timeout_seconds([now + timedelta(seconds=1)], now, generator, spread=2))


def _without_past_participants(
    session: Session,
    process: HostedProcess,
    cycle: _OpenCycle,
    worker_ids: Sequence[uuid.UUID],
    now: datetime,
    generator: random.Random,
    answers: dict[uuid.UUID, Accepted | Rejected],
) -> tuple[list[uuid.UUID], set[uuid.UUID]]:
    """The workers that may get a place, and those among them whose lease in this cycle has lapsed.

    Workers that have a place, or may not have one, are answered in ``answers``.
    """
    rows = session.execute(_PAST, {"workers": [str(worker_id) for worker_id in worker_ids]})
    last: dict[uuid.UUID, tuple[int, str]] = {}
    for worker_id, state, number in rows:
        last[worker_id] = max(last.get(worker_id, (0, "")), (number, state))
    rest = process.server_config.do_not_reuse_workers_until_cycle
    candidates, returning = [], set()
    for worker_id in dict.fromkeys(worker_ids):
        number, state = last.get(worker_id, (0, ""))
        if number == cycle.number and state == "lapsed":
            candidates.append(worker_id)
            returning.add(worker_id)
        elif number == cycle.number and state == "assigned":
            # The first answer was lost on its way: the device asks again and must not be locked out by it.
            answers[worker_id] = Accepted(cycle.id, again=True)
        elif number and (number == cycle.number or number + rest > cycle.number):
            past = number < cycle.number
            reason = RejectionReason.USED_RECENTLY if past else RejectionReason.ALREADY_IN_CYCLE
            opens = [cycle.deadline, _expected_end(process, cycle, now)]
            answers[worker_id] = Rejected(reason, timeout_seconds(opens, now, generator))
        else:
            candidates.append(worker_id)
    return candidates, returning


def _free_places(session: Session, process: HostedProcess, cycle: _OpenCycle, wanted: int, now: datetime) -> int:
    limit = process.server_config.max_workers
    if limit is None:
        return wanted
    free = limit - cycle.slots
    if free < wanted:
        free += lapse_leases(session, cycle.id, now)
    return max(0, min(free, wanted))


def _place(
    session: Session,
    process: HostedProcess,
    cycle: _OpenCycle,
    worker_ids: Sequence[uuid.UUID],
    returning: int,
    now: datetime,
) -> None:
    session.execute(
        _PLACE,
        {
            "cycle": cycle.id,
            "now": now,
            "lease_until": now + timedelta(seconds=process.server_config.assignment_lease),
            "workers": [str(worker_id) for worker_id in worker_ids],
            "taken": len(worker_ids),
            "first_time": len(worker_ids) - returning,
        },
    )


# The cycle's row is locked first, as in assign_workers; what was read of it is checked again once it is locked.
_PLACE_NEW = Prepared(
    "gridnode_place_new",
    ("bigint", "uuid[]", "timestamptz", "timestamptz", "bigint"),
    """
    WITH cycle AS (
        SELECT c.id FROM cycles AS c JOIN processes AS p ON p.id = c.process_id
        WHERE c.process_id = $1 AND c.state = 'open' AND p.state = 'active'
              AND ($5 IS NULL OR c.slots + cardinality($2) <= $5)
        FOR NO KEY UPDATE OF c),
    placed AS (
        INSERT INTO assignments (cycle_id, worker_id, state, assigned_at, lease_until)
        SELECT cycle.id, worker, 'assigned', $3, $4 FROM cycle, unnest($2) AS worker
        WHERE NOT EXISTS (SELECT FROM assignments AS a WHERE a.worker_id = worker)
        ON CONFLICT DO NOTHING
        RETURNING cycle_id, worker_id),
    counted AS (
        UPDATE cycles SET slots = slots + taken, accepted = accepted + taken
        FROM (SELECT cycle_id, count(*) AS taken FROM placed GROUP BY cycle_id) AS places
        WHERE id = cycle_id)
    SELECT cycle_id, worker_id::text FROM placed
    """,
)

# The statements that run for every batch of devices are written out: building them anew from expressions costs more
# than running them.
_LOCK_OPEN = text(
    """
    SELECT c.id, c.number, c.slots, c.reports, c.started_at, c.deadline
    FROM cycles AS c JOIN processes AS p ON p.id = c.process_id
    WHERE c.process_id = :process AND c.state = 'open' AND p.state = 'active'
    FOR NO KEY UPDATE OF c
    """
)
_PAST = text(
    """
    SELECT a.worker_id, a.state, c.number
    FROM assignments AS a JOIN cycles AS c ON c.id = a.cycle_id
    WHERE a.worker_id = ANY (CAST(:workers AS uuid[]))
    """
).columns(worker_id=Uuid)
_PLACE = text(
    """
    WITH placed AS (
        INSERT INTO assignments (cycle_id, worker_id, state, assigned_at, lease_until)
        SELECT :cycle, worker, 'assigned', :now, :lease_until FROM unnest(CAST(:workers AS uuid[])) AS worker
        ON CONFLICT (cycle_id, worker_id) DO UPDATE SET state = 'assigned', lease_until = EXCLUDED.lease_until)
    UPDATE cycles SET slots = slots + :taken, accepted = accepted + :first_time WHERE id = :cycle
    """
)


@dataclass(frozen=True, slots=True)
class _OpenCycle:
    """The running cycle, its row locked."""

    id: int
    number: int
    slots: int
    reports: int
    started_at: datetime
    deadline: datetime | None


def _lock_open_cycle(session: Session, process: HostedProcess) -> _OpenCycle | None:
    row = session.execute(_LOCK_OPEN, {"process": process.id}).one_or_none()
    return None if row is None else _OpenCycle(*row)


def _earliest_lease_end(session: Session, cycle: _OpenCycle) -> datetime | None:
    return session.scalar(
        select(func.min(Assignment.lease_until)).where(Assignment.cycle_id == cycle.id, Assignment.state == "assigned")
    )


def _expected_end(process: HostedProcess, cycle: _OpenCycle, now: datetime) -> datetime | None:
    return expected_end(cycle.started_at, cycle.reports, process.server_config.closing_diffs, now)
