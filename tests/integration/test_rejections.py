"""Cycle requests that are rejected are counted in the cycle that runs, without a statement for each."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from sqlalchemy import event, select

from gridnode.cycles import closing
from gridnode.cycles.rejections import Rejections, write_rejections
from gridnode.db.models import Cycle, OutboxEvent
from gridnode.db.session import Database
from gridnode.errors import Unavailable
from gridnode.processes import management
from gridnode.reporting.metrics import RejectionReason
from tests.support.domain import MEAN, TO_MASTER, Trial, diff, host
from tests.support.replica import Replica
from tests.support.threads import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, pool_size=4)
    yield database
    database.close()


def write(trial: Trial, rejections: Rejections) -> None:
    counts = rejections.unwritten()
    for process_id in trial.database.transaction(lambda s: write_rejections(s, counts), deadline=0):
        rejections.forget(process_id, counts[process_id])


def test_counts_of_several_replicas_are_added_to_the_open_cycle(database: Database) -> None:
    trial = host(database, max_diffs=1)
    other = host(database, name="other")
    first, second = Rejections(), Rejections()
    for rejections, count in ((first, 3), (second, 2)):
        for _ in range(count):
            rejections.count(trial.process.id, RejectionReason.CYCLE_FULL)
    second.count(trial.process.id, RejectionReason.TOO_SLOW)
    second.count(other.process.id, RejectionReason.PAUSED)
    second.count(other.process.id, RejectionReason.FINISHED)
    for rejections in (first, second):
        write(trial, rejections)
        assert rejections.unwritten() == {}
    assert trial.cycle().rejected == {"cycle_full": 5, "too_slow": 1}
    assert other.cycle().rejected == {"paused": 1}


def test_closing_takes_what_is_not_written_and_the_next_cycle_begins_with_none(database: Database) -> None:
    trial = host(database, max_diffs=1)
    rejections = Rejections()
    rejections.count(trial.process.id, RejectionReason.CYCLE_FULL)
    write(trial, rejections)
    (worker,) = trial.join(1)
    trial.report(diff(worker))
    cycle = trial.cycle().id
    database.transaction(
        lambda s: closing.close_cycle(
            s, cycle, trial.process, MEAN, trial.now, TO_MASTER, {"cycle_full": 1, "averaging": 4}
        )
    )
    body = database.transaction(lambda s: s.scalars(select(OutboxEvent.body)).one())
    assert (body["cycle_number"], body["rejected"]) == (1, {"cycle_full": 2, "averaging": 4})
    assert trial.cycle().rejected == {}


def test_what_no_cycle_takes_is_kept_until_one_runs_and_dropped_when_none_will(database: Database) -> None:
    trial = host(database, max_diffs=1)
    (worker,) = trial.join(1)
    trial.report(diff(worker))
    rejections = Rejections()
    rejections.count(trial.process.id, RejectionReason.AVERAGING)
    write(trial, rejections)
    assert rejections.of(trial.process.id) == {"averaging": 1}
    trial.close()
    write(trial, rejections)
    assert trial.cycle().rejected == {"averaging": 1}
    rejections.count(trial.process.id, RejectionReason.PAUSED)
    database.transaction(lambda s: management.finish(s, trial.process.id, trial.now, TO_MASTER))
    rejections.count(987654321, RejectionReason.PAUSED)
    write(trial, rejections)
    assert rejections.unwritten() == {}


def test_a_row_that_is_held_for_long_holds_up_nothing(database: Database) -> None:
    trial = host(database)
    rejections = Rejections()
    rejections.count(trial.process.id, RejectionReason.CYCLE_FULL)
    with database.sessions.begin() as holder:
        holder.execute(select(Cycle.id).with_for_update())
        with pytest.raises(Unavailable):
            write(trial, rejections)
    write(trial, rejections)
    assert trial.cycle().rejected == {"cycle_full": 1}


def test_devices_sent_away_are_in_the_event_and_cost_no_statement_each(database: Database, database_url: str) -> None:
    trial = host(database, max_workers=1, max_diffs=1)
    cycle = trial.cycle().id
    with Replica(database_url, interval=60) as replica:
        worker = uuid.uuid4()
        replica.request_cycle(trial.process, worker)
        statements: list[str] = []

        @event.listens_for(replica.database.engine, "before_cursor_execute")
        def _note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            statements.append(statement)

        for _ in range(5):
            replica.request_cycle(trial.process, uuid.uuid4())
        assert not [statement for statement in statements if "UPDATE" in statement and "rejected" in statement]
        replica.service.start()
        replica.report(trial.process, cycle, diff(worker))
        wait_until(lambda: replica.events == 1)
    body = database.transaction(lambda s: s.scalars(select(OutboxEvent.body)).one())
    assert body["rejected"] == {"cycle_full": 5}
