"""Counting reports in the common case: all of a batch are new, and the cycle takes them all.

Then one statement does everything that :func:`gridnode.cycles.reports.commit_reports` does, in one exchange with the
database. Each part of it depends on the one before: if a report is not new, or the cycle is over or too full, nothing
is changed, and the caller takes the long way.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from gridnode.averaging.layout import ModelLayout
from gridnode.averaging.strategy import Strategy
from gridnode.cycles.reports import CycleHasNoRoom, DiffSum, Report, sums_of
from gridnode.db.session import Database, Prepared

#: Bytes of sums up to which they go along as parameters of the statement; above, COPY costs less.
_LARGEST_PARAMETER = 32 * 1024


def count_new_reports(
    database: Database,
    cycle_id: int,
    reports: Sequence[Report],
    layout: ModelLayout,
    strategy: Strategy,
    now: datetime,
) -> int | None:
    """Count the reports if all of them are new and the cycle is open and has room for them.

    Args:
        database: Where a transaction is made and committed.
        cycle_id: The cycle that all of them were made for.
        reports: Checked reports, in order of arrival.
        layout: The model's.
        strategy: The process's.
        now: The present moment.

    Returns:
        How many reports the cycle has now; None if nothing was changed. Also None if this very batch has been counted
        before the answer of the database was lost: then all of it is found to be repeated.
    """
    if len({report.worker_id for report in reports}) < len(reports):
        return None
    sums = sums_of(reports, layout, strategy)
    parameters = _parameters(cycle_id, reports, now)
    if sum(len(each.value) for each in sums) <= _LARGEST_PARAMETER:
        rows = database.execute(_COUNT, [*parameters, *_columns(sums)])
        return None if not rows else int(rows[0].reports)

    def store_and_count(session: Session) -> int:
        for each in sums:
            each.store(session, cycle_id)
        rows = _COUNT.run(session.connection(), [*parameters, *_columns([])])
        if not rows:
            raise CycleHasNoRoom
        return int(rows[0].reports)

    try:
        return database.transaction(store_and_count)
    except CycleHasNoRoom:
        return None


def _parameters(cycle_id: int, reports: Sequence[Report], now: datetime) -> list[Any]:
    return [
        cycle_id,
        now,
        len(reports),
        float(sum(report.weight for report in reports)),
        [str(report.worker_id) for report in reports],
        [report.digest for report in reports],
        [report.num_samples for report in reports],
        [report.loss for report in reports],
        [report.accuracy for report in reports],
    ]


def _columns(sums: Sequence[DiffSum]) -> list[Any]:
    return [[each.reports for each in sums], [each.weight for each in sums], [bytes(each.value) for each in sums]]


# Rows are locked in the order in which commit_reports locks them: assignments by worker, then the cycle.
_COUNT = Prepared(
    "gridnode_count",
    (
        "bigint", "timestamptz", "bigint", "float8",
        "uuid[]", "bytea[]", "float8[]", "float8[]", "float8[]",
        "bigint[]", "float8[]", "bytea[]",
    ),
    """
    WITH claimed AS (
        SELECT state FROM assignments
        WHERE cycle_id = $1 AND worker_id = ANY ($5) AND state <> 'reported'
        ORDER BY worker_id FOR NO KEY UPDATE),
    counted AS (
        UPDATE cycles
        -- A lapsed device had given its place back; with its report it fills one again.
        SET reports = reports + $3, weight = weight + $4, slots = slots + late,
            min_diffs_at = CASE WHEN min_diffs_at IS NULL AND reports + $3 >= min_diffs THEN $2 ELSE min_diffs_at END,
            state = CASE WHEN reports + $3 >= max_diffs THEN 'averaging' ELSE state END,
            averaging_at = CASE WHEN reports + $3 >= max_diffs THEN $2 END
        FROM (SELECT count(*) AS number, count(*) FILTER (WHERE state = 'lapsed') AS late FROM claimed) AS claims
        WHERE id = $1 AND cycles.state = 'open' AND (max_diffs IS NULL OR reports + $3 <= max_diffs)
              AND claims.number = $3
        RETURNING reports),
    marked AS (
        UPDATE assignments AS a
        SET state = 'reported', reported_at = $2, diff_digest = r.digest,
            num_samples = r.num_samples, loss = r.loss, accuracy = r.accuracy
        FROM counted, unnest($5, $6, $7, $8, $9) AS r(worker, digest, num_samples, loss, accuracy)
        WHERE a.cycle_id = $1 AND a.worker_id = r.worker),
    stored AS (
        INSERT INTO update_sums (cycle_id, reports, weight, value)
        SELECT $1, s.reports, s.weight, s.value
        FROM counted, unnest($10, $11, $12) WITH ORDINALITY AS s(reports, weight, value, place)
        ORDER BY place)
    SELECT reports FROM counted
    """,
)  # fmt: skip
