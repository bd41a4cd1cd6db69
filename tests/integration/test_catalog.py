"""The node's memory of processes and cycles: few queries, and never wrong for longer than it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event, text

from gridnode.checkpoints.store import BlobCache, Downloads
from gridnode.cycles import view
from gridnode.cycles.view import CycleViews
from gridnode.db.models import Plan
from gridnode.db.session import Database
from gridnode.errors import NotFound, Unavailable
from gridnode.processes import catalog, management
from gridnode.processes.catalog import Catalog
from tests.support.domain import START, TO_MASTER, Trial, diff, host

pytestmark = pytest.mark.integration


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def processes(database: Database, clock: Clock) -> Catalog:
    return Catalog(database, clock)


class Queries:
    """Counts how often a connection is taken from the pool, from its making on."""

    def __init__(self, database: Database) -> None:
        self.count = 0
        event.listen(database.engine, "checkout", self._add)

    def _add(self, *_: object) -> None:
        self.count += 1


def delete(trial: Trial) -> None:
    trial.database.transaction(lambda s: management.delete_process(s, trial.process.id, START, TO_MASTER, force=True))


def host_version(database: Database, version: str) -> int:
    trial = host(database, name=f"of version {version}")
    values = {"id": trial.process.id, "version": version}
    database.transaction(
        lambda s: s.execute(text("UPDATE processes SET name = 'm', version = :version WHERE id = :id"), values)
    )
    return trial.process.id


def test_without_a_version_the_newest_process_is_meant(database: Database, processes: Catalog) -> None:
    old, new = host_version(database, "2.0"), host_version(database, "1.9")
    found = processes.by_name("m", None)
    assert found is not None
    assert found.id == new
    found = processes.by_name("m", "2.0")
    assert found is not None
    assert found.id == old
    assert processes.by_name("m", "3.0") is None
    assert processes.by_name("M", None) is None


def test_process_is_found_by_what_belongs_to_it(database: Database, processes: Catalog) -> None:
    first, second = host(database, name="a"), host(database, name="b")
    (plan_id,) = second.process.plans.values()
    assert processes.of_plan(plan_id) == processes.by_id(second.process.id) == second.process
    (first_plan,) = first.process.plans.values()
    assert processes.of_plan(first_plan) == first.process
    assert processes.of_plan(plan_id + 1) is None
    assert processes.of_protocol(plan_id) is None
    assert processes.by_id(second.process.id + 1) is None


def test_requests_for_a_known_process_ask_the_database_nothing(database: Database, processes: Catalog) -> None:
    trial = host(database)
    (plan_id,) = trial.process.plans.values()

    def look() -> list[Any]:
        return [
            processes.by_name("trial", None),
            processes.by_name("trial", "1"),
            processes.by_id(trial.process.id),
            processes.of_plan(plan_id),
        ]

    first = look()
    queries = Queries(database)
    assert look() == first == [trial.process] * 4
    assert queries.count == 0


def test_nobody_is_looked_for_again_at_once(database: Database, processes: Catalog) -> None:
    assert processes.by_name("nobody", None) is None
    queries = Queries(database)
    assert processes.by_name("nobody", None) is None
    assert queries.count == 0


def test_what_another_replica_did_is_noticed_soon(database: Database, processes: Catalog, clock: Clock) -> None:
    assert processes.by_name("m", None) is None
    old = host_version(database, "1.0")
    clock.seconds += catalog.FRESH_SECONDS
    found = processes.by_name("m", None)
    assert found is not None
    assert found.id == old

    new = host_version(database, "2.0")
    clock.seconds += catalog.FRESH_SECONDS - 0.1
    found = processes.by_name("m", None)
    assert found is not None
    assert found.id == old
    clock.seconds += 0.1
    found = processes.by_name("m", None)
    assert found is not None
    assert found.id == new

    delete(Trial(database, found))
    clock.seconds += catalog.FRESH_SECONDS
    assert processes.by_id(new) is None
    found = processes.by_name("m", None)
    assert found is not None
    assert found.id == old


def test_what_was_done_here_is_noticed_at_once(database: Database, processes: Catalog) -> None:
    trial = host(database)
    assert processes.by_id(trial.process.id) is not None
    delete(trial)
    processes.forget()
    assert processes.by_id(trial.process.id) is None
    assert processes.by_name("trial", None) is None


def test_database_that_is_away_is_not_taken_for_an_absent_process(
    database: Database, processes: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = host(database)

    def away(*_: object, **__: object) -> None:
        raise Unavailable("the database is unavailable", 1)

    with monkeypatch.context() as patch:
        patch.setattr(database, "transaction", away)
        with pytest.raises(Unavailable):
            processes.by_name("trial", None)
    assert processes.by_name("trial", None) == trial.process


def test_memory_is_bounded_however_many_names_are_made_up(
    database: Database, processes: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "_MAXIMUM_ENTRIES", 3)
    for number in range(10):
        processes.by_name(f"made up {number}", None)
    assert len(processes._entries) == 3


def test_view_of_a_running_cycle_is_refreshed_every_second(database: Database, clock: Clock) -> None:
    trial = host(database, max_diffs=1)
    views = CycleViews(database, clock)
    cycle_id = trial.cycle().id
    seen = views.get(cycle_id)
    assert seen == view.CycleView(trial.process.id, 1, running=True)
    (worker,) = trial.join(1)
    trial.report(diff(worker))
    trial.close()

    queries = Queries(database)
    clock.seconds += view.FRESH_SECONDS - 0.1
    assert views.get(cycle_id) == seen
    assert queries.count == 0
    clock.seconds += 0.1
    assert views.get(cycle_id) == view.CycleView(trial.process.id, 1, running=False)
    asked = queries.count
    clock.seconds += 1e6
    assert views.get(cycle_id) == view.CycleView(trial.process.id, 1, running=False)
    assert queries.count == asked


def test_view_of_a_cycle_that_ended_here_is_right_at_once(database: Database, clock: Clock) -> None:
    trial = host(database, max_diffs=1)
    views = CycleViews(database, clock)
    cycle_id = trial.cycle().id
    views.get(cycle_id)
    (worker,) = trial.join(1)
    trial.report(diff(worker))
    trial.close()
    views.ended(cycle_id)
    seen = views.get(cycle_id)
    assert seen is not None
    assert not seen.running
    following = views.get(cycle_id + 1)
    assert following == view.CycleView(trial.process.id, 2, running=True)


def test_made_up_cycles_push_out_nothing(database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "_MAXIMUM_ENTRIES", 2)
    trial = host(database)
    views = CycleViews(database, clock)
    cycle_id = trial.cycle().id
    views.get(cycle_id)
    for number in range(5):
        assert views.get(cycle_id + 1000 + number) is None
    queries = Queries(database)
    assert views.get(cycle_id) is not None
    assert queries.count == 0


def test_downloads_are_read_once_and_served_from_memory(database: Database) -> None:
    trial = host(database, max_diffs=1)
    downloads = Downloads(database, BlobCache(1 << 20))
    (plan_id,) = trial.process.plans.values()
    first = (downloads.checkpoint(trial.process.id, 1), downloads.plan(plan_id, "operations"))
    with database.sessions() as session:
        assert first[1] == session.get_one(Plan, plan_id).operations
    queries = Queries(database)
    again = (downloads.checkpoint(trial.process.id, 1), downloads.plan(plan_id, "operations"))
    assert again == first
    assert queries.count == 0


def test_download_that_is_not_there_is_said_to_be_missing_until_it_is(database: Database) -> None:
    trial = host(database, max_diffs=1)
    downloads = Downloads(database, BlobCache(1 << 20))
    with pytest.raises(NotFound):
        downloads.checkpoint(trial.process.id, 2)
    with pytest.raises(NotFound):
        downloads.plan(99, "operations")
    with pytest.raises(NotFound):
        downloads.protocol(99)
    (worker,) = trial.join(1)
    trial.report(diff(worker))
    trial.close()
    assert len(downloads.checkpoint(trial.process.id, 2)) > 0
