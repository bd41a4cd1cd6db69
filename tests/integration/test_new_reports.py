"""A batch of reports that are all new is counted by one statement, and any other changes nothing."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select, text

from gridnode.averaging.strategy import Mean, Strategy
from gridnode.cycles import new_reports
from gridnode.cycles.assignment import lapse_leases
from gridnode.cycles.closing import mark_due
from gridnode.cycles.new_reports import count_new_reports
from gridnode.cycles.reports import Report
from gridnode.db.models import UpdateSum
from gridnode.db.session import Database
from tests.support.domain import MEAN, Trial, diff, host

pytestmark = pytest.mark.integration


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def largest_parameter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums above it are stored by COPY."""
    monkeypatch.setattr(new_reports, "_LARGEST_PARAMETER", request.param)


def ways(test: Any) -> Any:
    """Run the test with sums as parameters, and with sums by COPY."""
    for_each = pytest.mark.parametrize("largest_parameter", [32768, -1], indirect=True, ids=["parameter", "copy"])
    return for_each(pytest.mark.usefixtures("largest_parameter")(test))


class NeedsEachDiff(Mean):
    needs_each_diff = True


def count(trial: Trial, *reports: Report, cycle: int | None = None, strategy: Strategy = MEAN) -> int | None:
    cycle_id = trial.cycle().id if cycle is None else cycle
    return count_new_reports(trial.database, cycle_id, reports, trial.process.layout, strategy, trial.now)


def everything(database: Database) -> list[list[Any]]:
    """All rows that counting could change."""
    queries = [text(f"SELECT * FROM {table} AS t ORDER BY t") for table in ("cycles", "assignments", "update_sums")]
    return database.transaction(lambda s: [[tuple(row) for row in s.execute(query)] for query in queries])


def assert_all_agree(trial: Trial, *, reports: int) -> None:
    """Counter, sums and assignments tell of the same reports."""
    facts = text(
        "SELECT c.reports, c.weight,"
        " (SELECT sum(reports) FROM update_sums WHERE cycle_id = c.id),"
        " (SELECT sum(weight) FROM update_sums WHERE cycle_id = c.id),"
        " (SELECT count(*) FROM assignments WHERE cycle_id = c.id AND state = 'reported')"
        " FROM cycles AS c WHERE c.id = :cycle"
    )
    cycle_id = trial.cycle().id
    found = trial.database.transaction(lambda s: s.execute(facts, {"cycle": cycle_id}).one())
    assert tuple(found) == (reports,) * 5


@ways
def test_new_reports_are_counted_with_one_count(database: Database) -> None:
    trial = host(database, min_diffs=2, max_diffs=4)
    a, b, c, d = trial.join(4)
    assert count(trial, diff(a, 1.0), diff(b, 2.0)) == 2
    assert_all_agree(trial, reports=2)
    assert trial.cycle().min_diffs_at == trial.now
    assert count(trial, diff(c, 4.0), diff(d, 8.0)) == 4
    assert_all_agree(trial, reports=4)
    cycle = trial.cycle()
    assert (cycle.state, cycle.averaging_at) == ("averaging", trial.now)
    assert trial.close() is not None


@ways
@pytest.mark.parametrize("why", ["repeated", "twice", "no place", "too many", "over", "no cycle"])
def test_batch_that_is_not_all_new_changes_nothing(database: Database, why: str) -> None:
    trial = host(database, min_diffs=1, max_diffs=2, cycle_length=100)
    first, second, third = trial.join(3)
    trial.report(diff(first))
    cycle_id = trial.cycle().id
    batch = [diff(second)]
    if why == "repeated":
        batch.append(diff(first))
    elif why == "twice":
        batch.append(diff(second))
    elif why == "no place":
        batch.append(diff(uuid.uuid4()))
    elif why == "too many":
        batch.append(diff(third))
    elif why == "over":
        trial.seconds = 100
        database.transaction(lambda s: mark_due(s, trial.now))
    else:
        cycle_id += 1
    before = everything(database)
    assert count(trial, *batch, cycle=cycle_id) is None
    assert everything(database) == before


def test_report_of_a_lapsed_device_fills_a_place_again(database: Database) -> None:
    trial = host(database, max_workers=2, max_diffs=2, assignment_lease=10)
    (worker,) = trial.join(1)
    trial.seconds = 11
    database.transaction(lambda s: lapse_leases(s, trial.cycle().id, trial.now))
    assert trial.cycle().slots == 0
    assert count(trial, diff(worker)) == 1
    assert trial.cycle().slots == 1
    assert_all_agree(trial, reports=1)


def test_diffs_that_are_needed_each_are_stored_in_order(database: Database) -> None:
    trial = host(database, max_diffs=10)
    workers = trial.join(3)
    batch = [diff(worker, value) for worker, value in zip(workers, (3.0, 1.0, 2.0), strict=True)]
    assert count(trial, *batch, strategy=NeedsEachDiff()) == 3
    stored = database.transaction(lambda s: s.scalars(select(UpdateSum).order_by(UpdateSum.id)).all())
    assert [(row.reports, trial.process.layout.views(row.value)[0][0]) for row in stored] == [(1, 3), (1, 1), (1, 2)]
