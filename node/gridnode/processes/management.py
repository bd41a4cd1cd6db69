"""What people do with hosted processes: look, pause, resume, finish early, delete, retrieve."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.orm import Session

from gridnode.checkpoints.store import checkpoint_number, read_checkpoint
from gridnode.cycles.closing import end_cycle, running_cycle
from gridnode.db.models import Assignment, Checkpoint, Cycle, OutboxEvent, Process, UpdateSum
from gridnode.errors import Conflict, NotFound
from gridnode.processes import states
from gridnode.processes.catalog import find_process_id
from gridnode.reporting.announcer import Announcer
from gridnode.reporting.progress import CycleFigures


@dataclass(frozen=True, slots=True)
class CycleStatus:
    """The running cycle. ``starved``: its deadline is past, but it lacks reports or devices."""

    number: int
    state: str
    started_at: datetime
    deadline: datetime | None
    accepted: int
    working: int
    reports: int
    min_diffs: int
    max_diffs: int | None
    starved: bool


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process as lists and status pages show it. ``progress`` is a percentage, None without ``num_cycles``.

    ``refused_events`` are those that the master node called wrong for good and never accepted.
    """

    id: int
    name: str
    version: str
    state: str
    failure: str | None
    completed_cycles: int
    num_cycles: int
    progress: int | None
    latest_checkpoint: int
    created_at: datetime
    finished_at: datetime | None
    refused_events: int
    cycle: CycleStatus | None
    client_config: dict[str, Any]
    server_config: dict[str, Any]


def list_processes(
    session: Session,
    now: datetime,
    *,
    name: str | None = None,
    version: str | None = None,
    after: int = 0,
    limit: int = 1000,
) -> list[ProcessStatus]:
    """Processes in the order in which they were hosted, with the running cycle of each, in one query.

    Args:
        session: Read only.
        now: The present moment, for ``starved``.
        name: Only processes of this name.
        version: Only processes of this version.
        after: Only processes with a larger id (the last one of the previous page).
        limit: Entries at most.
    """
    latest = (
        select(func.max(Checkpoint.number))
        .where(Checkpoint.process_id == Process.id)
        .correlate(Process)
        .scalar_subquery()
    )
    refused = (
        # With both, the index of undelivered events finds them.
        select(func.count())
        .where(
            OutboxEvent.process_id == Process.id,
            OutboxEvent.delivered_at.is_(None),
            OutboxEvent.refused_at.is_not(None),
        )
        .correlate(Process)
        .scalar_subquery()
    )
    query = (
        select(Process, Cycle, latest, refused)
        .outerjoin(Cycle, (Cycle.process_id == Process.id) & Cycle.state.in_(("open", "averaging")))
        .where(Process.id > after)
        .order_by(Process.id)
        .limit(limit)
    )
    if name is not None:
        query = query.where(Process.name == name)
    if version is not None:
        query = query.where(Process.version == version)
    return [
        _status(process, cycle, latest_number, refused_events, now)
        for process, cycle, latest_number, refused_events in session.execute(query)
    ]


@dataclass(frozen=True, slots=True)
class Finishing:
    """Whether the running cycle is averaged first, and how many reports were dropped because it is not."""

    averaging: bool
    dropped_reports: int


def find(session: Session, name: str, version: str | None) -> int:
    """Id of a process.

    Raises:
        NotFound: there is none of that name (and version).
    """
    process_id = find_process_id(session, name, version)
    if process_id is None:
        raise NotFound(f"no process {name}{f' {version}' if version else ''} is hosted here")
    return process_id


def pause(session: Session, process_id: int, now: datetime, announcer: Announcer) -> None:
    """Accept no more devices; those at work may still report, and the running cycle may end.

    Raises:
        Conflict: the process is finished, or has failed, so that its cycle can't end.
    """
    if states.move(session, process_id, "paused"):
        announcer.announce_change(session, process_id, now)


def resume(session: Session, process_id: int, now: datetime, announcer: Announcer) -> None:
    """Go on with a paused process, or try a failed averaging again, as if it had not failed.

    Raises:
        Conflict: the process is finished.
    """
    if states.move(session, process_id, "active", failure=None):
        announcer.announce_change(session, process_id, now)


def finish(session: Session, process_id: int, now: datetime, announcer: Announcer) -> Finishing:
    """Finish a process before its last cycle.

    A running cycle with at least ``min_diffs`` reports is still averaged, and the process is finished with it.
    Otherwise the process is finished at once, and the reports of its running cycle are dropped. Finishing again
    changes nothing.
    """
    cycle, state = _lock(session, process_id)
    if state == "finished":
        return Finishing(averaging=False, dropped_reports=0)
    figures: CycleFigures | None = None
    if cycle is not None and cycle.reports >= cycle.min_diffs and state != "failed":
        if cycle.state == "open":
            cycle.state = "averaging"
            cycle.averaging_at = now
        session.execute(update(Process).where(Process.id == process_id).values(last_cycle=cycle.number))
        return Finishing(averaging=True, dropped_reports=0)
    if cycle is not None:
        figures = end_cycle(session, cycle, "abandoned", now)
    states.move(session, process_id, "finished", finished_at=now)
    announcer.announce_change(session, process_id, now, figures=figures)
    return Finishing(averaging=False, dropped_reports=0 if figures is None else figures.reports)


def delete_process(session: Session, process_id: int, now: datetime, announcer: Announcer, *, force: bool) -> None:
    """Delete a process with its checkpoints and everything else.

    Raises:
        Conflict: devices have reported to it, and ``force`` is not set.
        NotFound: there is no such process (any more).
    """
    # What cascades to gigabytes of checkpoints is one statement.
    session.execute(text("SET LOCAL statement_timeout = '10min'"))
    _, state = _lock(session, process_id)
    if state is None:
        raise NotFound("the process is gone")
    reports = session.scalar(select(func.sum(Cycle.reports)).where(Cycle.process_id == process_id)) or 0
    if reports and not force:
        raise Conflict(
            f"devices have sent {reports} reports to this process: "
            "delete it with force, or finish it to keep its checkpoints"
        )
    announcer.announce_change(session, process_id, now, deleted=True)
    cycles = select(Cycle.id).where(Cycle.process_id == process_id).scalar_subquery()
    session.execute(delete(UpdateSum).where(UpdateSum.cycle_id.in_(cycles)))
    session.execute(delete(Assignment).where(Assignment.cycle_id.in_(cycles)))
    session.execute(delete(Process).where(Process.id == process_id))


def retrieve(session: Session, name: str, version: str | None, checkpoint: str | None) -> tuple[int, bytes]:
    """Number and encoded State of a checkpoint.

    Raises:
        NotFound: no such process, or no such checkpoint.
        InvalidRequest: ``checkpoint`` is neither a number nor ``latest``.
    """
    process_id = find(session, name, version)
    number = checkpoint_number(session, process_id, checkpoint)
    return number, read_checkpoint(session, process_id, number)


def _lock(session: Session, process_id: int) -> tuple[Cycle | None, str | None]:
    """The running cycle and the process's state (None if it is gone), with the rows of both locked.

    In the order in which closing locks them: a cycle that is being averaged is waited for.
    """
    cycle = running_cycle(session, process_id)
    return cycle, session.scalar(select(Process.state).where(Process.id == process_id).with_for_update())


def _status(
    process: Process, cycle: Cycle | None, latest_checkpoint: int, refused_events: int, now: datetime
) -> ProcessStatus:
    num_cycles = int(process.server_config.get("num_cycles") or 0)
    progress = 100 if process.state == "finished" else None
    if progress is None and num_cycles:
        progress = min(99, process.completed_cycles * 100 // num_cycles)
    return ProcessStatus(
        id=process.id,
        name=process.name,
        version=process.version,
        state=process.state,
        failure=process.failure,
        completed_cycles=process.completed_cycles,
        num_cycles=num_cycles,
        progress=progress,
        latest_checkpoint=latest_checkpoint,
        created_at=process.created_at,
        finished_at=process.finished_at,
        refused_events=refused_events,
        cycle=None if cycle is None else _cycle_status(cycle, now),
        client_config=process.client_config,
        server_config=_without_secrets(process.server_config),
    )


def _cycle_status(cycle: Cycle, now: datetime) -> CycleStatus:
    late = cycle.state == "open" and cycle.deadline is not None and cycle.deadline <= now
    return CycleStatus(
        number=cycle.number,
        state=cycle.state,
        started_at=cycle.started_at,
        deadline=cycle.deadline,
        accepted=cycle.accepted,
        working=cycle.working,
        reports=cycle.reports,
        min_diffs=cycle.min_diffs,
        max_diffs=cycle.max_diffs,
        starved=late and (cycle.reports < cycle.min_diffs or cycle.accepted < cycle.min_workers),
    )


def _without_secrets(server_config: dict[str, Any]) -> dict[str, Any]:
    authentication = server_config.get("authentication")
    if not isinstance(authentication, dict):
        return server_config
    shown = dict(authentication)
    if "secret" in shown:
        shown |= {"secret": "***"}
    endpoint, mark, _ = str(shown.get("endpoint", "")).partition("?")
    if mark:
        # Services are asked with a key in the query.
        shown["endpoint"] = f"{endpoint}?***"
    return server_config | {"authentication": shown}
