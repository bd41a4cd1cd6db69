"""What nobody needs any more is deleted, and nothing that somebody does need."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import func, select, text

from gridnode.cycles import closing, retention, service
from gridnode.cycles.assignment import Accepted, assign_workers
from gridnode.db.models import Assignment, Checkpoint, Cycle, UpdateSum
from gridnode.db.session import Database
from gridnode.processes import management
from tests.support.domain import TO_MASTER, Trial, diff, host
from tests.support.replica import Holding, Replica
from tests.support.threads import at_once, wait_until

pytestmark = pytest.mark.integration

LATER = retention.ASSIGNMENT_LIFETIME.total_seconds() + 1


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, pool_size=4)
    yield database
    database.close()


def pass_cycles(trial: Trial, number: int) -> list[uuid.UUID]:
    """Complete so many cycles; one worker each, in order."""
    workers = []
    for _ in range(number):
        (worker,) = trial.join(1)
        trial.report(diff(worker))
        assert trial.close() is not None
        workers.append(worker)
    return workers


def cycles_with_sums(trial: Trial) -> list[int]:
    query = select(Cycle.number).join(UpdateSum, UpdateSum.cycle_id == Cycle.id).order_by(Cycle.number)
    return list(trial.database.transaction(lambda s: s.scalars(query).all()))


def cycles_with_assignments(trial: Trial) -> list[int]:
    query = (
        select(Cycle.number)
        .join(Assignment, Assignment.cycle_id == Cycle.id)
        .where(Cycle.process_id == trial.process.id)
        .order_by(Cycle.number)
    )
    return list(trial.database.transaction(lambda s: s.scalars(query).all()))


def checkpoints(trial: Trial) -> list[int]:
    query = select(Checkpoint.number).where(Checkpoint.process_id == trial.process.id).order_by(Checkpoint.number)
    return list(trial.database.transaction(lambda s: s.scalars(query).all()))


def delete_assignments(trial: Trial) -> int:
    return trial.database.transaction(lambda s: retention.delete_old_assignments(s, trial.now))


def test_sums_of_one_ended_cycle_are_deleted(database: Database) -> None:
    trial = host(database, max_diffs=1)
    pass_cycles(trial, 2)
    (ended, _) = database.transaction(lambda s: s.scalars(select(UpdateSum.cycle_id).order_by(UpdateSum.id)).all())
    database.transaction(lambda s: retention.delete_update_sums(s, ended))
    assert cycles_with_sums(trial) == [2]


def test_leftover_sums_are_those_of_cycles_that_are_over(database: Database) -> None:
    """Of an open cycle, of one that waits to be averaged and of one that could not be, all are needed."""
    opened, averaging, failed = (host(database, name=name, max_diffs=2) for name in ("a", "b", "c"))
    dropped = host(database, name="d", min_diffs=2, max_diffs=2)
    for trial, reports in ((opened, 1), (averaging, 2), (failed, 2), (dropped, 1)):
        trial.report(*(diff(worker) for worker in trial.join(reports)))
    database.transaction(lambda s: closing.fail_process(s, failed.process.id, "it fails", failed.now, TO_MASTER))
    database.transaction(lambda s: management.finish(s, dropped.process.id, dropped.now, TO_MASTER))
    assert dropped.cycle().state == "abandoned"
    assert len(cycles_with_sums(opened)) == 4
    assert database.transaction(retention.delete_leftover_sums) == 1
    assert len(cycles_with_sums(opened)) == 3
    assert averaging.close() is not None
    assert database.transaction(retention.delete_leftover_sums) == 1


def test_sums_without_a_cycle_are_deleted(database: Database) -> None:
    row = "INSERT INTO update_sums (cycle_id, reports, weight, value) VALUES (77, 1, 1, '')"
    database.transaction(lambda s: s.execute(text(row)))
    assert database.transaction(retention.delete_leftover_sums) == 1


def test_report_that_is_just_being_counted_keeps_its_sum(database: Database) -> None:
    trial = host(database, max_diffs=1)
    (worker,) = trial.join(1)
    reporter = Holding(database)
    reporter.report(trial, worker)
    assert database.transaction(retention.delete_leftover_sums) == 0
    reporter.commit()
    assert database.transaction(retention.delete_leftover_sums) == 0
    assert trial.close() is not None


def test_replicas_delete_the_same_sums_at_once(database: Database) -> None:
    trial = host(database, max_diffs=1)
    pass_cycles(trial, 5)
    outcomes = at_once([lambda: database.transaction(retention.delete_leftover_sums)] * 3)
    assert sum(outcome for outcome in outcomes if isinstance(outcome, int)) == 5
    assert cycles_with_sums(trial) == []


def test_assignments_are_kept_for_a_week_so_that_late_repeats_are_known(database: Database) -> None:
    trial = host(database, max_diffs=1)
    (worker,) = pass_cycles(trial, 1)
    cycle_id = trial.cycle().id - 1
    trial.seconds = LATER - 2
    assert delete_assignments(trial) == 0
    assert trial.report(diff(worker), cycle=cycle_id).outcomes == ["repeated"]
    trial.seconds = LATER
    assert delete_assignments(trial) == 1
    assert trial.report(diff(worker), cycle=cycle_id).outcomes != ["repeated"]


@pytest.mark.parametrize(("rest", "kept"), [(0, []), (1, []), (2, [5]), (3, [4, 5]), (9, [1, 2, 3, 4, 5])])
def test_assignments_are_kept_while_a_worker_rests(database: Database, rest: int, kept: list[int]) -> None:
    """However old they are, since a slow process's cycles last for weeks."""
    trial = host(database, max_diffs=1, do_not_reuse_workers_until_cycle=rest)
    workers = pass_cycles(trial, 5)
    trial.seconds = LATER

    def accepted() -> list[bool]:
        with database.sessions() as session:
            answers = assign_workers(session, trial.process, workers, trial.now, trial.generator)
        return [isinstance(answer, Accepted) for answer in answers]

    before = accepted()
    assert delete_assignments(trial) == 5 - len(kept)
    assert cycles_with_assignments(trial) == kept
    assert accepted() == before


def test_assignments_of_the_running_cycle_are_kept_however_long_it_lasts(database: Database) -> None:
    trial = host(database, max_diffs=2)
    trial.join(1)
    trial.seconds = 100 * LATER
    assert delete_assignments(trial) == 0


def test_nobody_rests_in_a_finished_process(database: Database) -> None:
    trial = host(database, max_diffs=1, num_cycles=2, do_not_reuse_workers_until_cycle=9)
    pass_cycles(trial, 2)
    assert trial.status().state == "finished"
    trial.seconds = LATER
    assert delete_assignments(trial) == 2


def test_assignments_of_a_cycle_that_was_given_up_are_deleted(database: Database) -> None:
    trial = host(database, max_diffs=2, min_diffs=2)
    trial.join(1)
    database.transaction(lambda s: management.finish(s, trial.process.id, trial.now, TO_MASTER))
    trial.seconds = LATER
    assert delete_assignments(trial) == 1


@pytest.mark.parametrize(
    ("keep", "kept"), [(0, [1, 5]), (1, [1, 5]), (2, [1, 4, 5]), (4, [1, 2, 3, 4, 5]), (9, [1, 2, 3, 4, 5])]
)
def test_first_and_newest_checkpoints_are_kept(database: Database, keep: int, kept: list[int]) -> None:
    trial = host(database, max_diffs=1)
    other = host(database, name="other", max_diffs=1)
    pass_cycles(trial, 4)
    pass_cycles(other, 1)
    assert database.transaction(lambda s: retention.delete_old_checkpoints(s, keep)) == 5 - len(kept)
    assert checkpoints(trial) == kept
    assert checkpoints(other) == [1, 2]
    # What is left is enough to go on.
    pass_cycles(trial, 1)
    assert checkpoints(trial)[-1] == 6


def test_deletion_of_many_rows_is_done_in_batches(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    monkeypatch.setattr(retention, "VALUES_BATCH", 2)
    trial = host(database, max_diffs=1)
    pass_cycles(trial, 5)
    trial.seconds = LATER + timedelta(days=1).total_seconds()
    for expected in (2, 2, 1, 0):
        assert delete_assignments(trial) == expected
    for expected in (2, 2, 1, 0):
        assert database.transaction(retention.delete_leftover_sums) == expected
    for expected in (2, 2, 0):
        assert database.transaction(lambda s: retention.delete_old_checkpoints(s, 1)) == expected


def test_service_deletes_batch_after_batch_while_there_is_more_and_closes_cycles_between_them(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 20)
    monkeypatch.setattr(service, "_RETENTION_INTERVAL", 0.5)
    trial = host(database, max_diffs=1, num_cycles=2, max_workers=500)
    workers = trial.join(201)
    trial.report(diff(workers[0]))
    assert trial.close() is not None
    other = host(database, name="other", max_diffs=1)
    finish = database.transaction(lambda s: management.finish(s, trial.process.id, trial.now, TO_MASTER))
    assert not finish.averaging
    trial.seconds = LATER

    left_when_closed: list[int] = []

    def left() -> int:
        return database.transaction(lambda s: s.scalars(select(func.count()).select_from(Assignment)).one())

    with Replica(database_url, now=lambda: trial.now, interval=0.1) as replica:
        replica.service.start()
        wait_until(lambda: left() < 201)
        began = time.monotonic()
        other.report(diff(other.join(1)[0]))
        wait_until(lambda: other.status().completed_cycles == 1)
        left_when_closed.append(left())
        wait_until(lambda: left() == 1)
        assert time.monotonic() - began < 4  # an interval for each batch would be five seconds
    assert left_when_closed[0] > 1
