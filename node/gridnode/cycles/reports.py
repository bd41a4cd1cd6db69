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

from sqlalchemy import Uuid, select, text
from sqlalchemy.orm import Session

from gridnode.averaging.layout import Array, ModelLayout
from gridnode.averaging.strategy import Strategy, add_diff
from gridnode.db import binary_copy
from gridnode.db.models import Cycle
from gridnode.errors import Conflict, GridNodeError, InvalidRequest

Outcome = Literal["counted", "repeated"]


@dataclass(frozen=True, slots=True)
class Report:
    """A checked report. ``digest`` identifies the diff, ``weight`` is what the strategy gives it, ``norm`` is L2."""

    worker_id: uuid.UUID
    tensors: Sequence[Array]
    digest: bytes
    weight: float = 1.0
    norm: float = 0.0
    num_samples: float | None = None
    loss: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """What became of each report (in order), and how many the cycle has now; None if none was added."""

    outcomes: list[Outcome | GridNodeError]
    total: int | None


@dataclass(frozen=True, slots=True)
class DiffSum:
    """What is stored of a batch: the sum of some diffs, as the layout's buffer, their number and their weight."""

    reports: int
    weight: float
    value: bytearray

    def store(self, session: Session, cycle_id: int) -> None:
        """Insert it by COPY, which a large one needs."""
        row: dict[str, binary_copy.Field] = {
            "cycle_id": cycle_id,
            "reports": self.reports,
            "weight": self.weight,
            "value": self.value,
        }
        binary_copy.insert_row(session, "update_sums", row)


def sums_of(reports: Sequence[Report], layout: ModelLayout, strategy: Strategy) -> list[DiffSum]:
    """One sum of all diffs, or each diff for itself if the strategy needs that."""
    return [_sum(group, layout) for group in ([[each] for each in reports] if strategy.needs_each_diff else [reports])]


def _sum(reports: Sequence[Report], layout: ModelLayout) -> DiffSum:
    buffer = layout.zeros()
    total = layout.views(buffer)
    for report in reports:
        add_diff(total, report.tensors, report.weight)
    return DiffSum(len(reports), float(sum(report.weight for report in reports)), buffer)


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
        for update_sum in sums_of(chosen, layout, strategy):
            update_sum.store(session, cycle_id)
        late_workers = len(late.intersection(report.worker_id for report in chosen))
        total = _count(session, cycle_id, chosen, late_workers, now)
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
    workers = sorted({str(report.worker_id) for report in reports})
    rows = session.execute(_CLAIM, {"cycle": cycle_id, "workers": workers})
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


def _count(session: Session, cycle_id: int, reports: Sequence[Report], late_workers: int, now: datetime) -> int:
    """Mark the assignments reported and add to the cycle's counter; its new value."""
    total = session.scalar(
        _COUNT,
        {
            "cycle": cycle_id,
            "now": now,
            "workers": [str(report.worker_id) for report in reports],
            "digests": [report.digest for report in reports],
            "num_samples": [report.num_samples for report in reports],
            "losses": [report.loss for report in reports],
            "accuracies": [report.accuracy for report in reports],
            "reports": len(reports),
            "weight": float(sum(report.weight for report in reports)),
            # A lapsed device had given its place back; with its report it fills one again.
            "late_workers": late_workers,
        },
    )
    if total is None:
        raise CycleHasNoRoom
    return int(total)


# Written out, as in cycles/assignment.py: these run for every batch. Claims lock rows in one order everywhere, since
# two replicas with repeats of the same reports must not wait for each other.
_CLAIM = text(
    """
    SELECT worker_id, state, diff_digest FROM assignments
    WHERE cycle_id = :cycle AND worker_id = ANY (CAST(:workers AS uuid[]))
    ORDER BY worker_id FOR NO KEY UPDATE
    """
).columns(worker_id=Uuid)
_COUNT = text(
    """
    WITH marked AS (
        UPDATE assignments AS a
        SET state = 'reported', reported_at = :now, diff_digest = r.digest,
            num_samples = r.num_samples, loss = r.loss, accuracy = r.accuracy
        FROM unnest(CAST(:workers AS uuid[]), CAST(:digests AS bytea[]), CAST(:num_samples AS float8[]),
                    CAST(:losses AS float8[]), CAST(:accuracies AS float8[]))
             AS r(worker, digest, num_samples, loss, accuracy)
        WHERE a.cycle_id = :cycle AND a.worker_id = r.worker)
    UPDATE cycles
    SET reports = reports + :reports, weight = weight + :weight, slots = slots + :late_workers,
        min_diffs_at = CASE WHEN min_diffs_at IS NULL AND reports + :reports >= min_diffs
                       THEN CAST(:now AS timestamptz) ELSE min_diffs_at END,
        -- At the last report at once, not at the next sweep: whoever is accepted after it would train for nothing.
        state = CASE WHEN reports + :reports >= max_diffs THEN 'averaging' ELSE state END,
        averaging_at = CASE WHEN reports + :reports >= max_diffs THEN CAST(:now AS timestamptz) END
    WHERE id = :cycle AND state = 'open' AND (max_diffs IS NULL OR reports + :reports <= max_diffs)
    RETURNING reports
    """
)


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
