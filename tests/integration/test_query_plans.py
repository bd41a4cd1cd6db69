"""What a node asks of its database does not grow with its past."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event, text

from gridnode.cycles import closing, retention, service
from gridnode.cycles.assignment import Accepted, Rejected, assign_workers
from gridnode.cycles.view import CycleViews
from gridnode.db.session import Database
from tests.support.domain import Trial, diff, host
from tests.support.postgres import PostgresForTests

pytestmark = pytest.mark.integration

# As after months: 20000 past cycles of 5 workers each, and 500 further processes with a cycle under way.
_PAST = """
    INSERT INTO processes (name, version, state, secret, client_config, server_config, parameters)
        SELECT 'other ' || n, '1', 'active', '', '{}', '{}', '[]' FROM generate_series(1, 500) AS n;
    INSERT INTO cycles (process_id, number, state, checkpoint_number, min_workers, min_diffs, started_at, deadline)
        SELECT id, 1, 'open', 1, 1, 1, now(), now() + interval '1 day' FROM processes WHERE name LIKE 'other%';
    INSERT INTO cycles (process_id, number, state, checkpoint_number, min_workers, min_diffs, started_at, closed_at)
        SELECT p.id, n, 'completed', n, 1, 1, now(), now() FROM processes AS p, generate_series(1, 20000) AS n
        WHERE p.name = 'trial';
    INSERT INTO assignments (cycle_id, worker_id, state, assigned_at, lease_until)
        SELECT c.id, gen_random_uuid(), 'reported', now(), now() FROM cycles AS c, generate_series(1, 5)
        WHERE c.state = 'completed';
    INSERT INTO checkpoints (process_id, number, value)
        SELECT p.id, n, '' FROM processes AS p, generate_series(2, 20000) AS n WHERE p.name = 'trial';
    UPDATE cycles SET number = 20001 WHERE state = 'open' AND number = 0;
"""
_LARGE = "assignments|cycles|checkpoints"

Statement = tuple[str, Any]


@pytest.fixture(scope="module")
def old_trial(postgres: PostgresForTests) -> Iterator[Trial]:
    """A process with a long past and a cycle that has just begun."""
    with postgres.database() as url:
        database = Database(url)
        trial = host(database, max_workers=40, min_diffs=1, cycle_length=3600, do_not_reuse_workers_until_cycle=5)
        # The running cycle comes after all past ones.
        database.transaction(lambda s: s.execute(text("UPDATE cycles SET number = 0")))
        database.transaction(lambda s: s.execute(text(_PAST)))
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
        yield trial
        database.close()


@pytest.fixture
def young_trial(database_url: str) -> Iterator[Trial]:
    """The same process without a past."""
    database = Database(database_url)
    yield host(database, max_workers=40, min_diffs=1, cycle_length=3600, do_not_reuse_workers_until_cycle=5)
    database.close()


def executed(trial: Trial, work: Callable[[Trial], object]) -> list[Statement]:
    """The statements of some work, with their parameters."""
    statements: list[Statement] = []

    def record(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        statements.append((statement, parameters))

    event.listen(trial.database.engine, "before_cursor_execute", record)
    work(trial)
    event.remove(trial.database.engine, "before_cursor_execute", record)
    return statements


def join(trial: Trial) -> None:
    (answer,) = trial.ask(uuid.uuid4())
    assert isinstance(answer, Accepted)


def join_again(trial: Trial) -> None:
    worker = uuid.uuid4()
    assert [type(answer) for _ in range(2) for answer in trial.ask(worker)] == [Accepted, Accepted]


def be_rejected(trial: Trial) -> None:
    workers = [uuid.uuid4() for _ in range(64)]
    with trial.database.sessions() as session:  # which is never committed
        answers = assign_workers(session, trial.process, workers, trial.now, trial.generator)
    assert isinstance(answers[-1], Rejected)


def report(trial: Trial) -> None:
    (worker,) = trial.join(1)
    assert trial.report(diff(worker)).outcomes == ["counted"]


def look_at_the_cycle(trial: Trial) -> None:
    assert CycleViews(trial.database).get(trial.cycle().id) is not None


def sweep(trial: Trial) -> None:
    trial.database.transaction(lambda s: closing.mark_due(s, trial.now))
    trial.database.transaction(closing.averaging_cycles)
    trial.database.transaction(lambda s: service._lapse_everywhere(s, trial.now))


def close(trial: Trial) -> None:
    (worker,) = trial.join(1)
    trial.report(diff(worker))
    trial.seconds += 3601
    assert trial.close() is not None


def list_one(trial: Trial) -> None:
    assert trial.status().name == "trial"


def delete_what_is_over(trial: Trial) -> None:
    trial.database.transaction(lambda s: retention.delete_old_assignments(s, trial.now))
    trial.database.transaction(retention.delete_leftover_sums)


_WORK = [join, join_again, be_rejected, report, look_at_the_cycle, sweep, close, list_one]


@pytest.mark.parametrize("work", _WORK)
def test_number_of_statements_does_not_grow_with_past_cycles(
    old_trial: Trial, young_trial: Trial, work: Callable[[Trial], object]
) -> None:
    old = [statement for statement, _ in executed(old_trial, work)]
    young = [statement for statement, _ in executed(young_trial, work)]
    assert old == young


def test_cycle_request_is_three_statements(old_trial: Trial) -> None:
    """Lock the cycle, look at the worker's past, write the place."""
    assert len(executed(old_trial, join)) == 3


def test_report_is_two_statements_and_a_copy(old_trial: Trial) -> None:
    """Claim the assignment, copy the sum, count; the copy is none of SQLAlchemy's statements."""
    (worker,) = old_trial.join(1)
    cycle_id = old_trial.cycle().id
    assert len(executed(old_trial, lambda trial: trial.report(diff(worker), cycle=cycle_id))) == 2


@pytest.mark.parametrize("work", [*_WORK, delete_what_is_over])
def test_every_statement_finds_its_rows_by_an_index(old_trial: Trial, work: Callable[[Trial], object]) -> None:
    for statement, parameters in executed(old_trial, work):
        if not re.match(r"\s*(SELECT|UPDATE|DELETE|WITH)\b", statement):
            continue
        with old_trial.database.engine.connect() as connection:
            rows = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)
            plan = "\n".join(row[0] for row in rows)
        scanned = re.findall(rf"Seq Scan on ({_LARGE})\b", plan)
        assert not scanned, f"{statement}\n{plan}"
