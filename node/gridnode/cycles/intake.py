"""Where cycle requests and reports of all devices of one worker process meet and are committed in groups."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from gridnode.averaging.strategies import Strategies
from gridnode.cycles.assignment import Accepted, Rejected, assign_workers, place_new_workers
from gridnode.cycles.group_commit import GroupCommit
from gridnode.cycles.new_reports import count_new_reports
from gridnode.cycles.rejections import Rejections
from gridnode.cycles.reports import Committed, CycleHasNoRoom, Outcome, Report, commit_reports
from gridnode.cycles.view import CycleViews
from gridnode.db.session import Database
from gridnode.processes.catalog import HostedProcess
from gridnode.reporting import metrics

Item = TypeVar("Item")


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class _ForProcess(Generic[Item]):
    """What belongs to one process and is committed together with others of the same process (and cycle)."""

    process: HostedProcess
    item: Item


class Intake:
    """Accepts devices into cycles and counts their reports.

    Args:
        database: The node's.
        strategies: How each process averages.
        views: Told here which cycles run, so that stragglers don't cost an optimistic attempt each.
        rejections: Told of every device that is sent away.
        cycle_is_full: Called with the id of a cycle that has just got its last report.
        now: The clock.
        threads: Transactions under way at once at most, each for another process or cycle.
    """

    def __init__(
        self,
        database: Database,
        strategies: Strategies,
        views: CycleViews,
        rejections: Rejections,
        cycle_is_full: Callable[[int], None],
        now: Callable[[], datetime] = utc_now,
        threads: int = 16,
    ) -> None:
        self._database = database
        self._strategies = strategies
        self._views = views
        self._rejections = rejections
        self._cycle_is_full = cycle_is_full
        self._now = now
        # Which device gets a place, and when it is asked back, is no secret.
        self._random = random.Random()  # noqa: S311
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="commit")
        self._requests: GroupCommit[_ForProcess[uuid.UUID], Accepted | Rejected] = GroupCommit(
            self._assign, self._threads
        )
        self._reports: GroupCommit[_ForProcess[Report], Outcome] = GroupCommit(self._count, self._threads)

    def stop(self) -> None:
        """Take nothing any more; what is being committed ends by itself."""
        self._threads.shutdown(wait=False)

    def request_cycle(self, process: HostedProcess, worker_id: uuid.UUID) -> Future[Accepted | Rejected]:
        """A place in the running cycle, or a rejection.

        The future raises:
            Unavailable: the database is away.
        """
        return self._requests.submit(process.id, _ForProcess(process, worker_id))

    def report(self, process: HostedProcess, cycle_id: int, report: Report) -> Future[Outcome]:
        """Count a report; the future is done once that is durable.

        The future raises:
            Conflict: the cycle is over, or another diff of this worker was counted.
            InvalidRequest: the worker has no place in the cycle.
            Unavailable: the database is away; whether the report was counted is not known, repeating it is safe.
        """
        return self._reports.submit(cycle_id, _ForProcess(process, report))

    def count_rejected(self, process: HostedProcess, reason: metrics.RejectionReason) -> None:
        """Count a device that was sent away, by whomever."""
        metrics.count_rejected(process.name, process.version, reason)
        self._rejections.count(process.id, reason)

    def _assign(self, _key: Hashable, requests: Sequence[_ForProcess[uuid.UUID]]) -> Sequence[Accepted | Rejected]:
        process = requests[0].process
        workers = [request.item for request in requests]
        answers = self._places(process, workers)
        for answer in answers:
            if isinstance(answer, Rejected):
                self.count_rejected(process, answer.reason)
            elif not answer.again:
                metrics.count_assigned(process.name, process.version)
        return answers

    def _places(self, process: HostedProcess, workers: Sequence[uuid.UUID]) -> list[Accepted | Rejected]:
        answers: dict[uuid.UUID, Accepted | Rejected] = dict(
            place_new_workers(self._database, process, workers, self._now())
        )
        others = [worker for worker in workers if worker not in answers]
        if others:
            decided = self._database.transaction(
                lambda session: assign_workers(session, process, others, self._now(), self._random)
            )
            answers.update(zip(others, decided, strict=True))
        return [answers[worker] for worker in workers]

    def _count(self, key: Hashable, requests: Sequence[_ForProcess[Report]]) -> Sequence[Outcome | Exception]:
        cycle_id = int(key)  # type: ignore[call-overload]
        process = requests[0].process
        reports = [request.item for request in requests]
        started = time.monotonic()
        committed = self._commit(cycle_id, process, reports)
        seconds = time.monotonic() - started
        norms = [r.norm for r, outcome in zip(reports, committed.outcomes, strict=True) if outcome == "counted"]
        metrics.observe_report_batch(process.name, process.version, norms, seconds)
        wanted = process.server_config.closing_diffs
        if committed.total is not None and wanted is not None and committed.total >= wanted:
            self._cycle_is_full(cycle_id)
        return committed.outcomes

    def _commit(self, cycle_id: int, process: HostedProcess, reports: Sequence[Report]) -> Committed:
        strategy = self._strategies.of(process)

        def commit(*, cut: bool) -> Committed:
            return self._database.transaction(
                lambda session: commit_reports(
                    session, cycle_id, reports, process.layout, strategy, self._now(), cut=cut
                )
            )

        view = self._views.get(cycle_id)
        if view is None or not view.running:
            return commit(cut=True)
        total = count_new_reports(self._database, cycle_id, reports, process.layout, strategy, self._now())
        if total is not None:
            return Committed(["counted"] * len(reports), total)
        try:
            return commit(cut=False)
        except CycleHasNoRoom:
            self._views.ended(cycle_id)
            return commit(cut=True)
