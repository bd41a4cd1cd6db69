"""Each acknowledged report is counted exactly once, and none beyond ``max_diffs``: whoever repeats, races or breaks."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event, select, text
from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session

from gridnode.averaging.strategy import Mean
from gridnode.cycles import intake, new_reports
from gridnode.cycles.closing import mark_due
from gridnode.cycles.reports import CycleHasNoRoom, Report, commit_reports
from gridnode.db.models import Assignment, UpdateSum
from gridnode.db.session import Database
from gridnode.errors import Conflict, InvalidRequest
from tests.support.domain import Trial, diff, host, parameters
from tests.support.replica import Replica, SlowMean
from tests.support.threads import Background, at_once

pytestmark = pytest.mark.integration

_TERMINATE = text("SELECT pg_terminate_backend(:backend, 5000)")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, pool_size=4)
    yield database
    database.close()


@pytest.fixture
def replicas(database_url: str) -> Iterator[tuple[Replica, Replica]]:
    with Replica(database_url) as first, Replica(database_url) as second:
        yield first, second


def sums(trial: Trial) -> list[UpdateSum]:
    return list(trial.database.transaction(lambda s: s.scalars(select(UpdateSum).order_by(UpdateSum.id)).all()))


def states_of(trial: Trial, workers: Sequence[uuid.UUID]) -> list[str]:
    rows = trial.database.transaction(lambda s: s.execute(select(Assignment.worker_id, Assignment.state)).all())
    known = {row.worker_id: row.state for row in rows}
    return [known[worker] for worker in workers]


def stored_total(trial: Trial) -> float:
    """The sum of all diffs that are stored, by their first value."""
    return float(sum(trial.process.layout.views(row.value)[0][0] for row in sums(trial)))


def assert_is_consistent(trial: Trial) -> None:
    """Counter, sums and assignments tell of the same reports."""
    reported = trial.database.transaction(
        lambda s: s.scalars(select(Assignment).where(Assignment.state == "reported")).all()
    )
    cycle = trial.cycle()
    assert cycle.reports == len(reported) == sum(row.reports for row in sums(trial))
    assert cycle.weight == sum(row.weight for row in sums(trial))


def test_reports_that_come_together_are_stored_as_one_sum(database: Database) -> None:
    trial = host(database, max_diffs=10)
    workers = trial.join(3)
    committed = trial.report(*(diff(worker, value) for worker, value in zip(workers, [1, 2, 4], strict=True)))
    assert (committed.outcomes, committed.total) == (["counted"] * 3, 3)
    (stored,) = sums(trial)
    assert (stored.reports, stored.weight, stored_total(trial)) == (3, 3, 7)


def test_what_the_device_tells_of_its_training_is_kept(database: Database) -> None:
    trial = host(database, max_diffs=10)
    (worker,) = trial.join(1)
    trial.report(Report(worker, [np.ones(3, np.float32)], b"digest", num_samples=12.5, loss=0.25, accuracy=0.75))
    kept = database.transaction(lambda s: s.scalars(select(Assignment)).one())
    assert (kept.num_samples, kept.loss, kept.accuracy, kept.diff_digest) == (12.5, 0.25, 0.75, b"digest")
    assert (kept.state, kept.reported_at) == ("reported", trial.now)


def test_reports_that_devices_repeat_to_two_replicas_at_once_are_counted_once(
    database: Database, replicas: tuple[Replica, Replica]
) -> None:
    trial = host(database, max_diffs=1000)
    workers = trial.join(12)
    cycle_id = trial.cycle().id
    works = [
        partial(replica.report, trial.process, cycle_id, diff(worker, number + 1))
        for number, worker in enumerate(workers)
        for replica in replicas + replicas[:1]
    ]
    outcomes = at_once(works)
    assert (outcomes.count("counted"), outcomes.count("repeated")) == (12, 24)
    assert stored_total(trial) == sum(range(1, 13))
    assert_is_consistent(trial)


def test_two_replicas_together_count_exactly_max_diffs(database: Database, replicas: tuple[Replica, Replica]) -> None:
    trial = host(database, max_diffs=10)
    workers = trial.join(30)
    cycle_id = trial.cycle().id
    works = [
        partial(replicas[number % 2].report, trial.process, cycle_id, diff(worker, 2.0**number))
        for number, worker in enumerate(workers[:24])
    ]
    outcomes = at_once(works)
    counted = [number for number, outcome in enumerate(outcomes) if outcome == "counted"]
    assert len(counted) == 10
    assert all(isinstance(outcome, Conflict) for outcome in outcomes if outcome != "counted")
    # Of powers of two the sum tells which were added.
    assert stored_total(trial) == sum(2**number for number in counted)
    assert_is_consistent(trial)
    assert trial.cycle().state == "averaging"


def test_of_two_diffs_of_a_worker_at_once_one_is_counted_and_one_refused(
    database: Database, replicas: tuple[Replica, Replica]
) -> None:
    trial = host(database, max_diffs=10)
    (worker,) = trial.join(1)
    cycle_id = trial.cycle().id
    works = [
        partial(replica.report, trial.process, cycle_id, diff(worker, value))
        for replica, value in zip(replicas, [1, 2], strict=True)
    ]
    outcomes = at_once(works)
    assert outcomes.count("counted") == 1
    (refused,) = [outcome for outcome in outcomes if outcome != "counted"]
    assert isinstance(refused, Conflict)
    assert stored_total(trial) == outcomes.index("counted") + 1
    assert_is_consistent(trial)


@pytest.mark.parametrize("max_diffs", [1, 2, 3, 4])
def test_batch_is_cut_exactly_at_max_diffs(database: Database, max_diffs: int) -> None:
    trial = host(database, max_diffs=max_diffs)
    workers = trial.join(5)
    batch = [diff(worker, 2.0**number) for number, worker in enumerate(workers)]
    outcomes = trial.report(*batch).outcomes
    assert outcomes[:max_diffs] == ["counted"] * max_diffs
    assert [type(outcome) for outcome in outcomes[max_diffs:]] == [Conflict] * (5 - max_diffs)
    assert stored_total(trial) == 2**max_diffs - 1
    assert states_of(trial, workers) == ["reported"] * max_diffs + ["assigned"] * (5 - max_diffs)
    assert_is_consistent(trial)


def test_repeats_in_a_batch_share_the_fate_of_what_they_repeat(database: Database) -> None:
    trial = host(database, max_diffs=2)
    a, b, c = trial.join(3)
    outcomes = trial.report(diff(a), diff(b), diff(c), diff(a), diff(c), diff(c, 7), diff(b, 7)).outcomes
    assert outcomes[:2] == ["counted", "counted"]
    assert outcomes[3] == "repeated"
    assert [type(outcomes[index]) for index in (2, 4, 5, 6)] == [Conflict] * 4
    assert "over" in str(outcomes[4])
    assert "another diff" in str(outcomes[6])
    assert trial.cycle().reports == 2


def test_batch_that_fits_exactly_ends_the_cycle(database: Database) -> None:
    trial = host(database, max_diffs=3, min_diffs=2)
    a, b, c = trial.join(3)
    trial.report(diff(a))
    assert trial.cycle().min_diffs_at is None
    trial.seconds = 30
    trial.report(diff(b), diff(c))
    cycle = trial.cycle()
    assert (cycle.state, cycle.averaging_at, cycle.min_diffs_at) == ("averaging", trial.now, trial.now)


def test_stranger_in_a_batch_harms_nobody_else(database: Database) -> None:
    trial = host(database, max_diffs=10)
    (worker,) = trial.join(1)
    refused, counted = trial.report(diff(uuid.uuid4()), diff(worker)).outcomes
    assert isinstance(refused, InvalidRequest)
    assert counted == "counted"


def test_worker_of_another_cycle_has_no_place_in_this_one(database: Database) -> None:
    trial = host(database, max_diffs=1)
    a, _ = trial.join(2)
    trial.report(diff(a))
    trial.close()
    (refused,) = trial.report(diff(a)).outcomes
    assert isinstance(refused, InvalidRequest)
    assert trial.cycle().reports == 0


@pytest.mark.parametrize("state", ["averaging", "completed", "abandoned"])
def test_cycle_that_is_over_counts_nothing_and_still_knows_what_it_counted(database: Database, state: str) -> None:
    trial = host(database, max_diffs=1, min_diffs=1)
    a, b = trial.join(2)
    cycle_id = trial.cycle().id
    trial.report(diff(a))
    if state == "completed":
        trial.close()
    elif state == "abandoned":
        database.transaction(lambda s: s.execute(text("UPDATE cycles SET state = 'abandoned'")))
    repeated, refused, other_diff = trial.report(diff(a), diff(b), diff(a, 7), cycle=cycle_id).outcomes
    assert repeated == "repeated"
    assert isinstance(refused, Conflict)
    assert isinstance(other_diff, Conflict)
    counted = database.transaction(
        lambda s: s.scalar(text("SELECT reports FROM cycles WHERE id = :cycle"), {"cycle": cycle_id})
    )
    assert counted == 1


def test_cycle_that_is_being_averaged_since_its_deadline_takes_no_more_though_it_has_room(database: Database) -> None:
    trial = host(database, min_diffs=1, max_diffs=10, cycle_length=100)
    a, b = trial.join(2)
    trial.report(diff(a))
    trial.seconds = 100
    database.transaction(lambda s: mark_due(s, trial.now))
    (refused,) = trial.report(diff(b)).outcomes
    assert isinstance(refused, Conflict)
    assert_is_consistent(trial)
    assert trial.close() is not None


def test_nobody_waits_behind_the_averaging(database: Database, replicas: tuple[Replica, Replica]) -> None:
    """The one with a stale view of the cycle neither: a second ago it was open."""
    trial = host(database, max_diffs=1)
    late, stale, last = trial.join(3)
    cycle_id = trial.cycle().id
    view = replicas[1].views.get(cycle_id)
    assert view is not None
    assert view.running
    trial.report(diff(last))
    averaging = SlowMean()
    closer = Background(lambda: trial.close(averaging))
    averaging.began.wait()
    for replica, worker in zip(replicas, (late, stale), strict=True):
        reporting = Background(partial(replica.report, trial.process, cycle_id, diff(worker)))
        with pytest.raises(Conflict):
            reporting.result(timeout=2)
        repeating = Background(partial(replica.report, trial.process, cycle_id, diff(last)))
        assert repeating.result(timeout=2) == "repeated"
    averaging.go_on.set()
    assert closer.result() is not None


@pytest.fixture
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which way reports are counted: with one statement, with their sum by COPY before it, or step by step."""
    if request.param == "copy":
        monkeypatch.setattr(new_reports, "_LARGEST_PARAMETER", -1)
    elif request.param == "steps":
        monkeypatch.setattr(intake, "count_new_reports", lambda *_: None)


@pytest.mark.parametrize(
    ("way", "answer_of"),
    [("statement", "do_execute"), ("copy", "do_commit"), ("steps", "do_commit")],
    indirect=["way"],
)
@pytest.mark.usefixtures("way")
def test_report_whose_commit_is_in_doubt_is_found_to_be_counted(
    database: Database, replicas: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch, answer_of: str
) -> None:
    """The connection breaks after the server has committed and before it could say so."""
    trial = host(database, max_diffs=10)
    (worker,) = trial.join(1)
    cycle_id = trial.cycle().id
    replica = replicas[0]
    replica.views.get(cycle_id)
    dialect = replica.database.engine.dialect
    do = getattr(dialect, answer_of)
    lost: list[bool] = []

    def lose_the_answer_once(*arguments: Any) -> None:
        do(*arguments)
        if not lost and (answer_of == "do_commit" or arguments[1].startswith("EXECUTE")):
            lost.append(True)
            raise dialect.dbapi.OperationalError("server closed the connection unexpectedly")  # type: ignore[union-attr]

    monkeypatch.setattr(dialect, answer_of, lose_the_answer_once)
    assert replica.report(trial.process, cycle_id, diff(worker)) == "repeated"
    assert lost
    assert stored_total(trial) == 1
    assert_is_consistent(trial)


@pytest.mark.parametrize(
    ("way", "moment", "statement", "meets_it"),
    [
        ("statement", "before_cursor_execute", "PREPARE", "the preparation"),
        ("statement", "before_cursor_execute", "EXECUTE", "the one statement"),
        ("copy", "before_cursor_execute", "EXECUTE", "the count"),
        ("copy", "after_cursor_execute", "EXECUTE", "the commit"),
        ("steps", "before_cursor_execute", "FROM assignments", "the claim"),
        ("steps", "after_cursor_execute", "FROM assignments", "the copy of the sum"),
        ("steps", "before_cursor_execute", "UPDATE cycles", "the count"),
        ("steps", "after_cursor_execute", "UPDATE cycles", "the commit"),
    ],
    indirect=["way"],
)
@pytest.mark.usefixtures("way")
def test_report_whose_connection_breaks_is_counted_once(
    database: Database, replicas: tuple[Replica, Replica], moment: str, statement: str, meets_it: str
) -> None:
    trial = host(database, max_diffs=10)
    (worker,) = trial.join(1)
    cycle_id = trial.cycle().id
    replica = replicas[0]
    replica.views.get(cycle_id)
    seen: list[str] = []

    def break_the_first(connection: Any, _cursor: object, executed: str, *_: object) -> None:
        if statement in executed:
            seen.append(executed)
            if len(seen) == 1:
                backend = connection.connection.driver_connection.get_backend_pid()
                database.transaction(lambda s: s.execute(_TERMINATE, {"backend": backend}))

    event.listen(replica.database.engine, moment, break_the_first)
    assert replica.report(trial.process, cycle_id, diff(worker)) == "counted", meets_it
    assert len(seen) == 2
    assert stored_total(trial) == 1
    assert_is_consistent(trial)


def test_statement_that_a_session_has_not_prepared_is_prepared_again(
    database: Database, replicas: tuple[Replica, Replica]
) -> None:
    """Something between node and database gave the connection another session."""
    trial = host(database, max_diffs=10)
    first, second = trial.join(2)
    cycle_id = trial.cycle().id
    assert replicas[0].report(trial.process, cycle_id, diff(first)) == "counted"
    replicas[0].run(lambda s: s.execute(text("DEALLOCATE ALL")))
    assert replicas[0].report(trial.process, cycle_id, diff(second)) == "counted"
    assert stored_total(trial) == 2


def test_error_in_the_middle_of_a_batch_leaves_nothing_of_it(database: Database) -> None:
    trial = host(database, max_diffs=10)
    workers = trial.join(2)

    def commit(session: Session) -> None:
        commit_reports(session, trial.cycle().id, [diff(w) for w in workers], trial.process.layout, Mean(), trial.now)
        session.execute(text("SELECT 1 / 0"))

    with pytest.raises(DataError):
        database.transaction(commit)
    assert sums(trial) == []
    assert states_of(trial, workers) == ["assigned", "assigned"]
    assert_is_consistent(trial)


def test_batch_that_does_not_fit_asks_to_be_cut_and_leaves_nothing(database: Database) -> None:
    trial = host(database, max_diffs=1)
    workers = trial.join(2)
    cycle_id, layout = trial.cycle().id, trial.process.layout
    with pytest.raises(CycleHasNoRoom):
        database.transaction(
            lambda s: commit_reports(s, cycle_id, [diff(w) for w in workers], layout, Mean(), trial.now)
        )
    assert sums(trial) == []
    assert_is_consistent(trial)


def test_weights_are_summed_with_the_diffs(database: Database) -> None:
    trial = host(database, max_diffs=10, aggregation={"strategy": "weighted_mean"})
    a, b = trial.join(2)
    trial.report(diff(a, 2, weight=3), diff(b, 5, weight=0.5))
    (stored,) = sums(trial)
    assert (stored.reports, stored.weight, stored_total(trial)) == (2, 3.5, 8.5)
    assert_is_consistent(trial)


class _NeedsEachDiff(Mean):
    needs_each_diff = True


def test_strategy_that_needs_each_diff_gets_them_in_the_order_of_arrival(database: Database) -> None:
    trial = host(database, max_diffs=3)
    workers = trial.join(4)
    cycle_id, layout = trial.cycle().id, trial.process.layout
    batch = [diff(worker, number) for number, worker in enumerate(workers)]
    database.transaction(lambda s: commit_reports(s, cycle_id, batch, layout, _NeedsEachDiff(), trial.now, cut=True))
    assert [(row.reports, layout.views(row.value)[0][0]) for row in sums(trial)] == [(1, 0), (1, 1), (1, 2)]
    assert_is_consistent(trial)


def test_values_are_those_of_an_independent_sum(database: Database) -> None:
    generator = np.random.default_rng(5)
    tensors = [np.zeros((3, 4), np.float32), np.zeros((), np.float32), np.zeros((0, 2), np.float32)]
    trial = host(database, tensors=tensors, max_diffs=6)
    workers = trial.join(6)
    diffs = [[generator.normal(size=t.shape).astype(np.float32) for t in tensors] for _ in workers]
    reports = [Report(w, d, bytes([n])) for n, (w, d) in enumerate(zip(workers, diffs, strict=True))]
    trial.report(*reports[:1])
    trial.report(*reports[1:4])
    trial.report(*reports[4:])
    trial.close()
    for index, got in enumerate(parameters(trial, 2)):
        expected = -np.mean([d[index].astype(np.float64) for d in diffs], axis=0)
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
        assert got.shape == tensors[index].shape
