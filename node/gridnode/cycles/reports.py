"""Counting reports: each acknowledged one exactly once, whatever is killed and whenever.

:func:`commit_reports` runs in one transaction for all reports of a cycle that arrived together. It claims their
assignments, stores one row with the sum of their diffs, and adds to the cycle's counter on the condition that the
cycle is still open and has room. The phones are answered after the commit. Running it again is harmless: a claimed
assignment is not claimed twice, so a transaction whose commit was in doubt is simply repeated.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import case, func, select, text, update
from sqlalchemy.orm import Session

from gridnode.averaging.layout import Array, ModelLayout
from gridnode.averaging.strategy import Strategy, add_diff
from gridnode.db import binary_copy
from gridnode.db.models import Assignment, Cycle
from gridnode.errors import Conflict, GridNodeError, InvalidRequest

Outcome = Literal["counted", "repeated"]


@dataclass(frozen=True, slots=True)
class Report:
    """A checked report. ``digest`` identifies the diff, ``weight`` is what the strategy gives it."""

    worker_id: uuid.UUID
    tensors: Sequence[Array]
    digest: bytes
    weight: float = 1.0
    num_samples: float | None = None
    loss: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """What became of each report (in order), and how many the cycle has now; None if none was added."""

    outcomes: list[Outcome | GridNodeError]
    total: int | None


class CycleHasNoRoom(Exception):
    """The cycle is over or does not take the whole batch: roll back and call again with ``cut=True``."""


def commit_reports(
    session: Session,
    cycle_id: int,
    reports: Sequence[Report],
    layout: ModelLayout,
    strategy: Strategy,
    now: datetime,
    *,
    cut: bool = False,
) -> Committed:
    """Count these reports of one cycle.

    Args:
        session: Its transaction must be committed before a phone is answered.
        cycle_id: The cycle that all of them were made for.
        reports: Checked reports, in order of arrival.
        layout: The model's.
        strategy: The process's; it decides whether a sum or each diff is stored.
        now: The present moment.
        cut: False: the cycle's row is touched last, so that replicas hold its lock for the shortest time. True: it is
            locked first and the batch cut where the counter would pass ``max_diffs``.

    Raises:
        CycleHasNoRoom: only if not ``cut``.
    """
    outcomes: dict[int, Outcome | GridNodeError] = {}
    claimed, late = _claim(session, cycle_id, reports, outcomes)
    if cut:
        claimed = _cut(claimed, _locked_room(session, cycle_id, len(claimed)), reports, outcomes)
    total: int | None = None
    if claimed:
        chosen = [reports[index] for index in claimed]
        _mark_reported(session, cycle_id, chosen, now)
        for group in [[report] for report in chosen] if strategy.needs_each_diff else [chosen]:
            _store(session, cycle_id, group, layout)
        late_workers = len(late.intersection(report.worker_id for report in chosen))
        total = _add_to_counter(session, cycle_id, chosen, late_workers, now)
    return Committed([outcomes[index] for index in range(len(reports))], total)


def _cut(
    claimed: list[int], room: int, reports: Sequence[Report], outcomes: dict[int, Outcome | GridNodeError]
) -> list[int]:
    """Refuse the claimed reports beyond ``room``, together with their repeats in the same batch."""
    refused = {reports[index].worker_id for index in claimed[room:]}
    for index, report in enumerate(reports):
        if report.worker_id in refused:
            outcomes[index] = Conflict("the cycle is over, this report is not counted")
    return claimed[:room]


def _claim(
    session: Session, cycle_id: int, reports: Sequence[Report], outcomes: dict[int, Outcome | GridNodeError]
) -> tuple[list[int], set[uuid.UUID]]:
    """Indices of the reports that are new, and the workers among them whose lease had lapsed; answers the others."""
    rows = session.execute(
        select(Assignment.worker_id, Assignment.state, Assignment.diff_digest)
        .where(Assignment.cycle_id == cycle_id, Assignment.worker_id.in_({report.worker_id for report in reports}))
        # In one order everywhere: two replicas with repeats of the same reports must not wait for each other.
        .order_by(Assignment.worker_id)
        .with_for_update(key_share=True)
    )
    known = {row.worker_id: row for row in rows}
    digests = {worker: bytes(row.diff_digest) for worker, row in known.items() if row.state == "reported"}
    claimed = []
    for index, report in enumerate(reports):
        counted = digests.get(report.worker_id)
        if report.worker_id not in known:
            outcomes[index] = InvalidRequest("this worker has no place in this cycle")
        elif counted is None:
            digests[report.worker_id] = report.digest
            outcomes[index] = "counted"
            claimed.append(index)
        elif counted == report.digest:
            outcomes[index] = "repeated"
        else:
            outcomes[index] = Conflict("another diff of this worker has been counted in this cycle already")
    return claimed, {worker for worker, row in known.items() if row.state == "lapsed"}


_MARK = text(
    """
    UPDATE assignments AS a
    SET state = 'reported', reported_at = :now, diff_digest = r.digest,
        num_samples = r.num_samples, loss = r.loss, accuracy = r.accuracy
    FROM unnest(CAST(:workers AS uuid[]), CAST(:digests AS bytea[]), CAST(:num_samples AS float8[]),
                CAST(:losses AS float8[]), CAST(:accuracies AS float8[]))
         AS r(worker, digest, num_samples, loss, accuracy)
    WHERE a.cycle_id = :cycle AND a.worker_id = r.worker
    """
)


def _mark_reported(session: Session, cycle_id: int, reports: Sequence[Report], now: datetime) -> None:
    session.execute(
        _MARK,
        {
            "cycle": cycle_id,
            "now": now,
            "workers": [str(report.worker_id) for report in reports],
            "digests": [report.digest for report in reports],
            "num_samples": [report.num_samples for report in reports],
            "losses": [report.loss for report in reports],
            "accuracies": [report.accuracy for report in reports],
        },
    )


def _store(session: Session, cycle_id: int, reports: Sequence[Report], layout: ModelLayout) -> None:
    buffer = layout.zeros()
    total = layout.views(buffer)
    for report in reports:
        add_diff(total, report.tensors, report.weight)
    weight = float(sum(report.weight for report in reports))
    row: dict[str, binary_copy.Field] = {
        "cycle_id": cycle_id,
        "reports": len(reports),
        "weight": weight,
        "value": buffer,
    }
    binary_copy.insert_row(session, "update_sums", row)


def _add_to_counter(
    session: Session, cycle_id: int, reports: Sequence[Report], late_workers: int, now: datetime
) -> int:
    count = len(reports)
    total = Cycle.reports + count
    reached = case((Cycle.min_diffs_at.is_(None) & (total >= Cycle.min_diffs), now), else_=Cycle.min_diffs_at)
    new_total = session.scalar(
        update(Cycle)
        .where(Cycle.id == cycle_id, Cycle.state == "open", total <= func.coalesce(Cycle.max_diffs, total))
        .values(
            reports=total,
            weight=Cycle.weight + sum(report.weight for report in reports),
            # A lapsed device had given its place back; with its report it fills one again.
            slots=Cycle.slots + late_workers,
            min_diffs_at=reached,
        )
        .returning(Cycle.reports)
        .execution_options(synchronize_session=False)
    )
    if new_total is None:
        raise CycleHasNoRoom
    return int(new_total)


def _locked_room(session: Session, cycle_id: int, wanted: int) -> int:
    """How many reports the cycle still takes, with its row locked if that is not 0."""
    # The state is looked at before the row is locked: whoever averages holds the lock for as long as that takes.
    if session.scalar(select(Cycle.state).where(Cycle.id == cycle_id)) != "open":
        return 0
    row = session.execute(
        select(Cycle.state, Cycle.reports, Cycle.max_diffs).where(Cycle.id == cycle_id).with_for_update(key_share=True)
    ).one_or_none()
    if row is None or row.state != "open":
        return 0
    return wanted if row.max_diffs is None else max(0, row.max_diffs - row.reports)
