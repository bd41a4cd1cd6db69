"""How many cycle requests were rejected in a cycle, by reason.

A rejection writes nothing: it is counted in memory, and about once a second what was counted is added to the row of the
cycle that runs then. So a rejection costs no statement, and a process that is killed loses what it counted since.
"""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping

from sqlalchemy import text
from sqlalchemy.orm import Session

from gridnode.reporting.metrics import RejectionReason


class Rejections:
    """What one worker process has rejected and not written yet; for any thread."""

    def __init__(self) -> None:
        self._counts: dict[int, Counter[str]] = defaultdict(Counter)
        self._lock = threading.Lock()

    def count(self, process_id: int, reason: RejectionReason) -> None:
        """Count a request; one to a finished process belongs to no cycle."""
        if reason is not RejectionReason.FINISHED:
            with self._lock:
                self._counts[process_id][reason.value] += 1

    def unwritten(self) -> dict[int, dict[str, int]]:
        """All that is not written, by process."""
        with self._lock:
            return {process_id: dict(counts) for process_id, counts in self._counts.items()}

    def of(self, process_id: int) -> dict[str, int]:
        """What is not written of a process."""
        with self._lock:
            return dict(self._counts.get(process_id, {}))

    def forget(self, process_id: int, counts: Mapping[str, int]) -> None:
        """These are written, by a transaction that was committed, or have nowhere to go."""
        with self._lock:
            left = self._counts[process_id]
            left.subtract(counts)
            self._counts[process_id] = +left
            if not self._counts[process_id]:
                del self._counts[process_id]


def add(to: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """The sum of two counts by reason."""
    return dict(Counter(to) + Counter(more))


def write_rejections(session: Session, counts: Mapping[int, Mapping[str, int]]) -> set[int]:
    """Add counts to the open cycles of their processes.

    Returns:
        Processes of which nothing is left to do: their counts are added, or no cycle of theirs will ever run again.
    """
    # Whoever averages holds a cycle's row for as long as that takes, and the sweep must not wait for it. Reports hold
    # it for moments.
    session.execute(text("SET LOCAL lock_timeout = '200ms'"))
    return set(session.scalars(_ADD, {"counts": json.dumps(counts)}))


_ADD = text(
    """
    WITH given AS (
        SELECT key::bigint AS process_id, value AS counts FROM jsonb_each(CAST(:counts AS jsonb))),
    open AS (
        SELECT c.id, c.process_id, given.counts
        FROM cycles AS c JOIN given ON given.process_id = c.process_id
        WHERE c.state = 'open'
        ORDER BY c.id FOR NO KEY UPDATE OF c),
    added AS (
        UPDATE cycles SET rejected = (
            SELECT jsonb_object_agg(reason, number) FROM (
                SELECT counted.key AS reason, sum(counted.value::bigint) AS number
                FROM (SELECT * FROM jsonb_each_text(cycles.rejected)
                      UNION ALL SELECT * FROM jsonb_each_text(open.counts)) AS counted
                GROUP BY counted.key) AS sums)
        FROM open WHERE cycles.id = open.id
        RETURNING open.process_id)
    SELECT process_id FROM added
    UNION ALL
    SELECT given.process_id FROM given LEFT JOIN processes AS p ON p.id = given.process_id
    WHERE p.id IS NULL OR p.state = 'finished'
    """
)
