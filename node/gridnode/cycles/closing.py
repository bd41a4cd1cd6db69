"""Ending a cycle: mark it, average its reports into the next checkpoint, start the next cycle.

Everything but the mark happens in one transaction under the cycle's row lock. Any replica may do it; one that dies
half-way leaves nothing behind and another does it again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.orm import Session

from gridnode.averaging.layout import ModelLayout, is_finite
from gridnode.averaging.strategy import AveragingFailed, StoredUpdate, Strategy, apply_diff
from gridnode.checkpoints.store import read_checkpoint
from gridnode.cycles.rejections import add
from gridnode.cycles.states import RUNNING
from gridnode.db import binary_copy
from gridnode.db.models import Assignment, Cycle, Process, UpdateSum
from gridnode.processes import states as process_states
from gridnode.processes.catalog import HostedProcess
from gridnode.processes.schema import ServerConfig
from gridnode.protocol.syft_proto import decode_state, encode_state
from gridnode.reporting.announcer import Announcer
from gridnode.reporting.progress import CycleFigures, ProcessProgress, cycle_figures, running_cycle_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Closed:
    """A cycle that was completed: what metrics and logs say of it."""

    number: int
    figures: CycleFigures
    seconds_to_min_diffs: float | None
    finished: bool


def start_cycle(session: Session, process_id: int, config: ServerConfig, number: int, now: datetime) -> Cycle:
    """Open cycle ``number`` of a process; devices train from the checkpoint of the same number."""
    cycle = Cycle(
        process_id=process_id,
        number=number,
        state="open",
        checkpoint_number=number,
        min_workers=config.min_workers,
        min_diffs=config.required_diffs,
        max_diffs=config.closing_diffs,
        started_at=now,
        deadline=None if config.cycle_length is None else now + timedelta(seconds=config.cycle_length),
    )
    session.add(cycle)
    session.flush()
    return cycle


def mark_due(session: Session, now: datetime, cycle_id: int | None = None) -> list[int]:
    """Move due cycles from ``open`` to ``averaging``: one of them, or all of this node.

    A cycle is due when it has ``max_diffs`` reports, or at its deadline with at least ``min_diffs`` of them and
    ``min_workers`` devices accepted.

    Returns:
        Ids of the cycles that were moved.
    """
    full = Cycle.reports >= Cycle.max_diffs
    in_time = and_(Cycle.deadline <= now, Cycle.reports >= Cycle.min_diffs, Cycle.accepted >= Cycle.min_workers)
    due = select(Cycle.id).where(Cycle.state == "open", or_(full, in_time))
    if cycle_id is not None:
        due = due.where(Cycle.id == cycle_id)
    moved = session.scalars(
        update(Cycle)
        # Skipping locked rows: a cycle that is just being reported to is found again a second later.
        .where(Cycle.id.in_(due.with_for_update(skip_locked=cycle_id is None, key_share=True)))
        # Said once more, so that the index of running cycles serves here too.
        .where(Cycle.state == "open")
        .values(state="averaging", averaging_at=now)
        .returning(Cycle.id)
        .execution_options(synchronize_session=False)
    )
    return list(moved)


def averaging_cycles(session: Session) -> list[tuple[int, int]]:
    """(cycle id, process id) of the cycles that wait for somebody to average them."""
    rows = session.execute(
        select(Cycle.id, Cycle.process_id)
        .join(Process, Process.id == Cycle.process_id)
        .where(Cycle.state == "averaging", Process.state != "failed")
    )
    return [(cycle_id, process_id) for cycle_id, process_id in rows]


def close_cycle(
    session: Session,
    cycle_id: int,
    process: HostedProcess,
    strategy: Strategy,
    now: datetime,
    announcer: Announcer,
    rejected: Mapping[str, int] | None = None,
) -> Closed | None:
    """Average a cycle's reports into the next checkpoint and start the next cycle, or finish the process.

    Holds the cycle's row lock for the whole transaction, so of several replicas one closes and the others return None.

    Args:
        session: One transaction, committed by the caller.
        cycle_id: A cycle in state ``averaging``.
        process: The process it belongs to.
        strategy: How its reports are averaged.
        now: The present moment.
        announcer: Tells the master node, in the same transaction.
        rejected: Cycle requests rejected in the cycle that are not in its row yet, by reason.

    Returns:
        What was closed, or None if somebody else is at it, has done it, or the process was deleted.

    Raises:
        AveragingFailed: the averaging plan raised, ran out of its limits or gave other shapes. All reports are kept.
    """
    cycle = session.scalar(
        select(Cycle).where(Cycle.id == cycle_id, Cycle.state == "averaging").with_for_update(skip_locked=True)
    )
    if cycle is None:
        return None
    _write_next_checkpoint(session, cycle, process.layout, strategy)
    cycle.rejected = add(cycle.rejected, rejected or {})
    figures = end_cycle(session, cycle, "completed", now)
    progress = _advance(session, process, cycle, now)
    announcer.announce(session, progress, figures, now)
    reached = cycle.min_diffs_at
    return Closed(
        number=cycle.number,
        figures=figures,
        seconds_to_min_diffs=None if reached is None else (reached - cycle.started_at).total_seconds(),
        finished=progress.finished,
    )


def end_cycle(session: Session, cycle: Cycle, state: Literal["completed", "abandoned"], now: datetime) -> CycleFigures:
    """Bring a cycle whose row the caller has locked to its end, and sum it up."""
    cycle.state = state
    cycle.closed_at = now
    session.flush()
    # Devices that never reported have lost their place for good; nobody needs to watch their leases any more.
    session.execute(
        update(Assignment)
        .where(Assignment.cycle_id == cycle.id, Assignment.state == "assigned")
        .values(state="lapsed")
        .execution_options(synchronize_session=False)
    )
    return cycle_figures(session, cycle.id)


def fail_process(session: Session, process_id: int, reason: str, now: datetime, announcer: Announcer) -> None:
    """Stop a process whose averaging can't be done. The cycle and all its reports stay, for the author to resume."""
    if process_states.move(session, process_id, "failed", failure=reason):
        announcer.announce_change(session, process_id, now)


def running_cycle(session: Session, process_id: int) -> Cycle | None:
    """The cycle of a process that is open or being averaged, with its row locked against closing."""
    running = (Cycle.process_id == process_id, Cycle.state.in_(RUNNING))
    while True:
        cycle = session.scalar(select(Cycle).where(*running).with_for_update())
        # A statement that waited for the one that closes does not see the cycle it has begun; the next one does.
        if cycle is not None or session.scalar(select(Cycle.id).where(*running)) is None:
            return cycle


def _write_next_checkpoint(session: Session, cycle: Cycle, layout: ModelLayout, strategy: Strategy) -> None:
    counted = session.scalar(select(func.sum(UpdateSum.reports)).where(UpdateSum.cycle_id == cycle.id)) or 0
    if counted != cycle.reports:
        raise AveragingFailed(f"the cycle counted {cycle.reports} reports but {counted} are stored")
    averaged = strategy.average(_stored_updates(session, cycle.id, layout), layout)
    current = decode_state(read_checkpoint(session, cycle.process_id, cycle.checkpoint_number))
    following = list(apply_diff(current.tensors, averaged))
    if not all(is_finite(tensor) for tensor in following):
        raise AveragingFailed("the next checkpoint would have NaN or infinite values")
    row: dict[str, binary_copy.Field] = {
        "process_id": cycle.process_id,
        "number": cycle.number + 1,
        "value": encode_state(following),
    }
    binary_copy.insert_row(session, "checkpoints", row)


def _stored_updates(session: Session, cycle_id: int, layout: ModelLayout) -> Iterator[StoredUpdate]:
    """The cycle's stored sums in order of arrival, one in memory at a time."""
    rows = session.execute(
        select(UpdateSum.id, UpdateSum.reports, UpdateSum.weight)
        .where(UpdateSum.cycle_id == cycle_id)
        .order_by(UpdateSum.id)
    ).all()
    for row_id, reports, weight in rows:
        value = binary_copy.read_value(session, "update_sums", "value", {"id": row_id})
        if value is None:
            raise AveragingFailed("a stored sum of diffs is missing")
        yield StoredUpdate(reports, weight, layout.views(value))


def _advance(session: Session, process: HostedProcess, cycle: Cycle, now: datetime) -> ProcessProgress:
    """Count the completed cycle, and open the next one or finish the process."""
    completed, last_cycle, state = session.execute(
        update(Process)
        .where(Process.id == process.id)
        .values(completed_cycles=Process.completed_cycles + 1)
        .returning(Process.completed_cycles, Process.last_cycle, Process.state)
        .execution_options(synchronize_session=False)
    ).one()
    wanted = process.server_config.num_cycles
    finished = bool(wanted and completed >= wanted) or (last_cycle is not None and cycle.number >= last_cycle)
    if finished:
        process_states.move(session, process.id, "finished", finished_at=now, failure=None)
        following = None
    else:
        following = start_cycle(session, process.id, process.server_config, cycle.number + 1, now)
    return ProcessProgress(
        process_id=process.id,
        model=process.name,
        version=process.version,
        completed_cycles=completed,
        num_cycles=wanted,
        state="finished" if finished else state,
        running=None if following is None else running_cycle_of(following),
    )
