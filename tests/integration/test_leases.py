"""A device that was accepted and vanished gives its place back, and its late report still counts."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest
from sqlalchemy import event, select

from gridnode.cycles.assignment import Accepted, Rejected, lapse_leases
from gridnode.db.models import Assignment
from gridnode.db.session import Database
from gridnode.errors import Conflict
from gridnode.processes import management
from gridnode.reporting.metrics import RejectionReason
from tests.support.domain import TO_MASTER, Trial, diff, host
from tests.support.replica import Holding, Replica
from tests.support.threads import Background

pytestmark = pytest.mark.integration


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, pool_size=4)
    yield database
    database.close()


def state_of(trial: Trial, worker: uuid.UUID) -> str:
    return trial.database.transaction(
        lambda s: s.scalars(select(Assignment.state).where(Assignment.worker_id == worker)).one()
    )


def is_accepted(trial: Trial, worker: uuid.UUID) -> bool:
    (answer,) = trial.ask(worker)
    return isinstance(answer, Accepted)


def lapse(trial: Trial) -> int:
    return trial.database.transaction(lambda s: lapse_leases(s, trial.cycle().id, trial.now))


def test_place_is_free_again_when_the_lease_has_run_out(database: Database) -> None:
    trial = host(database, max_workers=2, assignment_lease=60, cycle_length=1000)
    (vanished,) = trial.join(1)
    trial.seconds = 30
    (training,) = trial.join(1)
    trial.seconds = 59.9
    assert not is_accepted(trial, uuid.uuid4())
    trial.seconds = 60
    assert is_accepted(trial, uuid.uuid4())
    assert not is_accepted(trial, uuid.uuid4())
    assert (state_of(trial, vanished), state_of(trial, training)) == ("lapsed", "assigned")
    assert trial.cycle().slots == 2


def test_place_of_a_worker_that_has_reported_is_not_free_again(database: Database) -> None:
    trial = host(database, max_workers=2, assignment_lease=60, max_diffs=2)
    a, _ = trial.join(2)
    trial.report(diff(a))
    trial.seconds = 61
    assert is_accepted(trial, uuid.uuid4())
    assert not is_accepted(trial, uuid.uuid4())
    assert state_of(trial, a) == "reported"


def test_late_report_counts_while_the_cycle_is_open_and_fills_a_place_again(database: Database) -> None:
    trial = host(database, max_workers=3, assignment_lease=60, max_diffs=3)
    late, _, _ = trial.join(3)
    trial.seconds = 61
    assert lapse(trial) == 3
    assert trial.cycle().slots == 0
    assert trial.report(diff(late)).outcomes == ["counted"]
    assert trial.cycle().slots == 1
    assert [is_accepted(trial, uuid.uuid4()) for _ in range(3)] == [True, True, False]


def test_late_report_of_a_worker_whose_place_somebody_else_has_counts_too(database: Database) -> None:
    trial = host(database, max_workers=2, assignment_lease=60, max_diffs=2)
    late, _ = trial.join(2)
    trial.seconds = 61
    follower, _ = trial.join(2)
    assert trial.report(diff(late), diff(follower)).outcomes == ["counted", "counted"]
    assert trial.close() is not None


def test_late_report_is_refused_after_the_end_of_the_cycle(database: Database) -> None:
    trial = host(database, max_workers=2, assignment_lease=60, max_diffs=1)
    late, quick = trial.join(2)
    cycle_id = trial.cycle().id
    trial.report(diff(quick))
    trial.close()
    (outcome,) = trial.report(diff(late), cycle=cycle_id).outcomes
    assert isinstance(outcome, Conflict)
    assert state_of(trial, late) == "lapsed"


def test_lapsed_worker_that_asks_again_gets_a_new_lease_and_counts_as_one_device(database: Database) -> None:
    trial = host(database, max_workers=1, assignment_lease=60)
    (worker,) = trial.join(1)
    trial.seconds = 61
    assert lapse(trial) == 1
    assert is_accepted(trial, worker)
    trial.seconds = 120
    assert lapse(trial) == 0
    cycle = trial.cycle()
    assert (cycle.slots, cycle.accepted) == (1, 1)
    trial.seconds = 121
    assert lapse(trial) == 1


def test_replicas_take_places_back_without_being_asked_and_once(database: Database, database_url: str) -> None:
    trials = [host(database, name=name, max_workers=3, assignment_lease=60) for name in ("a", "b")]
    for trial in trials:
        trial.join(3)
    now = trials[0]
    with Replica(database_url, now=lambda: now.now) as first, Replica(database_url, now=lambda: now.now) as second:
        first.service.start()
        second.service.start()
        time.sleep(0.1)
        assert [trial.cycle().slots for trial in trials] == [3, 3]
        now.seconds = 60
        deadline = time.monotonic() + 10
        while [trial.cycle().slots for trial in trials] != [0, 0]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.1)
    assert [(trial.cycle().slots, trial.cycle().accepted) for trial in trials] == [(0, 3), (0, 3)]


def test_device_that_is_just_reporting_keeps_its_place(database: Database) -> None:
    """Its report is not committed yet when its lease is looked at; nobody waits for it."""
    trial = host(database, max_workers=2, assignment_lease=60, max_diffs=2)
    reporting, _ = trial.join(2)
    trial.seconds = 61
    reporter = Holding(database)
    reporter.claim(reporting)
    assert lapse(trial) == 1
    reporter.session.rollback()
    reporter.session.close()
    assert state_of(trial, reporting) == "assigned"
    assert trial.cycle().slots == 1


def test_places_of_a_paused_process_lapse_too(database: Database) -> None:
    trial = host(database, max_workers=1, assignment_lease=60)
    trial.join(1)
    database.transaction(lambda s: management.pause(s, trial.process.id, trial.now, TO_MASTER))
    trial.seconds = 61
    assert lapse(trial) == 1
    database.transaction(lambda s: management.resume(s, trial.process.id, trial.now, TO_MASTER))
    assert is_accepted(trial, uuid.uuid4())


def test_worker_that_asks_again_while_its_late_report_is_under_way_blocks_nobody(
    database: Database, database_url: str
) -> None:
    """The report has the worker's row and wants the cycle's, the request has this and wants that: one is repeated."""
    trial = host(database, max_workers=5, assignment_lease=60, max_diffs=5)
    (worker,) = trial.join(1)
    trial.seconds = 61
    assert lapse(trial) == 1
    reporter = Trial(Database(database_url), trial.process, seconds=61)
    asking: list[Background[list[Accepted | Rejected]]] = []

    def ask_meanwhile(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "FROM assignments" in statement and not asking:
            asking.append(Background(lambda: trial.ask(worker)))
            time.sleep(0.2)

    event.listen(reporter.database.engine, "after_cursor_execute", ask_meanwhile)
    assert reporter.report(diff(worker)).outcomes == ["counted"]
    (answer,) = asking[0].result(timeout=5)
    assert isinstance(answer, Accepted) or answer.reason is RejectionReason.ALREADY_IN_CYCLE
    cycle = trial.cycle()
    assert (cycle.reports, cycle.slots, cycle.accepted) == (1, 1, 1)
    assert state_of(trial, worker) == "reported"
    reporter.database.close()
