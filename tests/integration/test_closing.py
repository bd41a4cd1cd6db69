"""A cycle always ends, once, with the right checkpoint: whoever closes it, fails at it or dies over it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
import pytest
from sqlalchemy import func, select, text

from gridnode.averaging.layout import Array, ModelLayout
from gridnode.averaging.strategy import AveragingFailed, Mean, StoredUpdate
from gridnode.cycles.closing import averaging_cycles
from gridnode.cycles.reports import Report
from gridnode.db.models import Assignment, Checkpoint, OutboxEvent, UpdateSum
from gridnode.db.session import Database
from gridnode.errors import Unavailable
from gridnode.processes import management
from gridnode.reporting.progress import CycleFigures
from tests.support.averaging_plans import iterative_plan, list_mean_plan, running_mean_plan
from tests.support.domain import START, TO_MASTER, Trial, diff, host, parameters
from tests.support.plan_builder import Action, Value
from tests.support.replica import Holding, Replica, SlowMean
from tests.support.threads import Background, at_once, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, pool_size=4)
    yield database
    database.close()


def count(database: Database, kind: type[Checkpoint | OutboxEvent | UpdateSum]) -> int:
    return database.transaction(lambda s: s.scalars(select(func.count()).select_from(kind)).one())


def report(trial: Trial, number: int, value: float = 1.0) -> None:
    trial.report(*(diff(worker, value) for worker in trial.join(number)))


def is_closed_at(trial: Trial, seconds: float) -> bool:
    trial.seconds = seconds
    return trial.close() is not None


def nothing_is_closed(trial: Trial) -> bool:
    """Neither a checkpoint nor a cycle nor an event nor progress."""
    written = (count(trial.database, Checkpoint), count(trial.database, OutboxEvent))
    return written == (1, 0) and trial.cycle().number == 1 and trial.status().completed_cycles == 0


def test_cycle_closes_at_max_diffs_before_its_deadline(database: Database) -> None:
    trial = host(database, min_diffs=1, max_diffs=3, cycle_length=100)
    report(trial, 2)
    assert not is_closed_at(trial, 99.9)
    report(trial, 1)
    assert is_closed_at(trial, 99.9)


def test_cycle_closes_at_its_deadline_with_min_diffs(database: Database) -> None:
    trial = host(database, min_diffs=2, max_diffs=10, cycle_length=100)
    report(trial, 2)
    assert not is_closed_at(trial, 99.9)
    assert is_closed_at(trial, 100)


def test_cycle_with_too_few_reports_stays_open_after_its_deadline_until_they_arrive(database: Database) -> None:
    trial = host(database, min_diffs=2, max_diffs=10, cycle_length=100)
    report(trial, 1)
    assert not is_closed_at(trial, 99)
    shown = trial.status().cycle
    assert shown is not None
    assert not shown.starved
    assert not is_closed_at(trial, 500)
    shown = trial.status().cycle
    assert shown is not None
    assert shown.starved
    report(trial, 1)
    assert is_closed_at(trial, 500)


def test_cycle_without_any_report_is_never_averaged(database: Database) -> None:
    trial = host(database, cycle_length=100)
    assert not is_closed_at(trial, 1e6)


def test_deadline_closes_no_cycle_into_which_fewer_than_min_workers_were_accepted(database: Database) -> None:
    trial = host(database, min_workers=3, min_diffs=1, cycle_length=100)
    report(trial, 2)
    assert not is_closed_at(trial, 100)
    trial.join(1)
    assert is_closed_at(trial, 100)


def test_min_diffs_close_a_cycle_that_nothing_else_would(database: Database) -> None:
    trial = host(database, min_diffs=3)
    report(trial, 2)
    assert not is_closed_at(trial, 1e6)
    report(trial, 1)
    assert is_closed_at(trial, 1e6)


def test_next_cycle_begins_when_the_last_was_closed(database: Database) -> None:
    trial = host(database, min_diffs=1, max_diffs=5, cycle_length=100, min_workers=1)
    report(trial, 1)
    assert is_closed_at(trial, 130)
    cycle = trial.cycle()
    assert (cycle.number, cycle.checkpoint_number, cycle.state) == (2, 2, "open")
    assert (cycle.slots, cycle.accepted, cycle.reports, cycle.weight) == (0, 0, 0, 0)
    assert cycle.started_at == trial.now
    assert cycle.deadline is not None
    assert (cycle.deadline - trial.now).total_seconds() == 100


def test_every_cycle_goes_on_from_the_checkpoint_before(database: Database) -> None:
    trial = host(database, max_diffs=2, num_cycles=3)
    for value in (1, 10, 100):
        report(trial, 2, value)
        assert trial.close() is not None
    assert [parameters(trial, number)[0][0] for number in range(1, 5)] == [0, -1, -11, -111]
    assert trial.status().state == "finished"


def test_what_a_cycle_came_to_is_summed_up(database: Database) -> None:
    trial = host(database, min_diffs=2, max_diffs=3, assignment_lease=10)
    a, b, c, _, _ = trial.join(5)
    ones = [np.ones(3, np.float32)]
    trial.seconds = 4
    trial.report(Report(a, ones, b"a", loss=1.0, accuracy=0.5), Report(b, ones, b"b", loss=2.0))
    trial.seconds = 20
    trial.report(Report(c, ones, b"c"))
    closed = trial.close()
    assert closed is not None
    assert closed.figures == CycleFigures(
        number=1,
        state="completed",
        started_at=START,
        reports=3,
        accepted=5,
        dropped=2,
        loss=1.5,
        loss_min=1.0,
        loss_max=2.0,
        accuracy=0.5,
        accuracy_min=0.5,
        accuracy_max=0.5,
        cycle_seconds=20.0,
    )
    assert (closed.number, closed.seconds_to_min_diffs, closed.finished) == (1, 4.0, False)
    states = database.transaction(lambda s: s.scalars(select(Assignment.state).order_by(Assignment.state)).all())
    assert states == ["lapsed", "lapsed", "reported", "reported", "reported"]


def test_event_tells_of_the_close_and_exists_only_with_it(database: Database) -> None:
    trial = host(database, max_diffs=1, num_cycles=4)
    report(trial, 1)
    closer = Holding(database)
    closer.close_cycle(trial)
    closer.session.rollback()
    closer.session.close()
    assert nothing_is_closed(trial)
    trial.close()
    body = database.transaction(lambda s: s.scalars(select(OutboxEvent.body)).one())
    expected = {"model_id": "trial", "version": "1", "percent_complete": 25, "cycle": 1, "cycles": 4, "reports": 1}
    assert expected.items() <= body.items()


def test_of_several_closers_at_once_one_closes(database: Database, database_url: str) -> None:
    trial = host(database, max_diffs=1)
    closers = [Trial(Database(database_url), trial.process) for _ in range(3)]
    for number in range(1, 4):
        report(trial, 1)
        outcomes = at_once([closer.close for closer in closers])
        assert len([outcome for outcome in outcomes if outcome is not None]) == 1
        assert trial.cycle().number == number + 1
    assert count(database, OutboxEvent) == 3
    assert count(database, Checkpoint) == 4
    for closer in closers:
        closer.database.close()


def test_closer_whose_connection_breaks_leaves_it_to_another(database: Database, database_url: str) -> None:
    """The other one closes while the first still averages, which then finds that it is done."""
    trial = host(database, max_diffs=1)
    report(trial, 1)
    first = Trial(Database(database_url), trial.process)
    averaging = SlowMean()
    closing = Background(lambda: first.close(averaging))
    averaging.began.wait()
    assert trial.close() is None
    database.transaction(lambda s: s.execute(_TERMINATE_WHO_LOCKS_CYCLES))
    assert nothing_is_closed(trial)
    assert trial.close() is not None
    averaging.go_on.set()
    assert closing.result() is None
    assert count(database, OutboxEvent) == 1
    assert [parameters(trial, number)[0][0] for number in (1, 2)] == [0, -1]
    first.database.close()


_TERMINATE_WHO_LOCKS_CYCLES = text(
    """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_locks
    WHERE relation = 'cycles'::regclass AND mode = 'RowShareLock' AND pid <> pg_backend_pid()
    """
)


def test_replicas_close_what_is_due_without_being_asked(database: Database, database_url: str) -> None:
    """At the last report at once, at the deadline by themselves, each cycle once."""
    clock = Trial(database, host(database, name="other").process)
    full = host(database, name="full", max_diffs=4)
    timed = host(database, name="timed", min_diffs=1, cycle_length=100)
    with Replica(database_url, now=lambda: clock.now) as first, Replica(database_url, now=lambda: clock.now) as second:
        first.service.start()
        second.service.start()
        for number in range(1, 6):
            workers = full.join(4)
            cycle_id = full.cycle().id
            works = [
                partial((first, second)[index % 2].report, full.process, cycle_id, diff(worker))
                for index, worker in enumerate(workers)
            ]
            assert at_once(works) == ["counted"] * 4
            wait_until(lambda number=number: full.cycle().number == number + 1)  # type: ignore[misc]
        report(timed, 1)
        time.sleep(0.1)
        assert timed.cycle().number == 1
        clock.seconds = 101
        wait_until(lambda: timed.cycle().number == 2)
        wait_until(lambda: first.events + second.events == 6)
        # What was averaged is not kept.
        wait_until(lambda: count(database, UpdateSum) == 0)
    assert count(database, OutboxEvent) == 6
    assert parameters(full, 6)[0][0] == -5


def test_last_report_closes_the_cycle_without_waiting_for_the_next_look(database: Database, database_url: str) -> None:
    trial = host(database, max_diffs=2)
    with Replica(database_url, interval=60) as replica:
        replica.service.start()
        time.sleep(0.2)
        cycle_id = trial.cycle().id
        for worker in trial.join(2):
            replica.report(trial.process, cycle_id, diff(worker))
        wait_until(lambda: trial.cycle().number == 2)


def test_weighted_mean_weighs_each_report_by_its_samples(database: Database, database_url: str) -> None:
    trial = host(database, max_diffs=3, aggregation={"strategy": "weighted_mean"})
    with Replica(database_url) as replica:
        replica.service.start()
        cycle_id = trial.cycle().id
        for worker, value, weight in zip(trial.join(3), (1, 5, 4), (3, 1, 0.5), strict=True):
            assert replica.report(trial.process, cycle_id, diff(worker, value, weight=weight)) == "counted"
        wait_until(lambda: trial.cycle().number == 2)
    np.testing.assert_allclose(parameters(trial, 2)[0], np.full(3, -10 / 4.5), rtol=1e-6)


def test_sums_are_added_in_the_order_in_which_they_came(database: Database) -> None:
    """In float32 the order decides: what is added to a large number is lost."""
    trial = host(database, max_diffs=3)
    for value in (1e8, -1e8, 3):
        report(trial, 1, value)
    assert trial.close() is not None
    assert parameters(trial, 2)[0].tolist() == [-1, -1, -1]


def nan_plan() -> bytes:
    """Passes the dry run, since values are not looked at in it, and gives NaN."""
    diff0, zero = Value("diff0"), Value("zero")
    return iterative_plan(
        [Action("__sub__", diff0, [diff0], returns=[zero]), Action("__truediv__", zero, [zero])],
    )


def test_failing_averaging_plan_fails_the_process_and_keeps_every_report_until_it_is_resumed(
    database: Database, database_url: str
) -> None:
    trial = host(database, averaging_plan=nan_plan(), iterative_plan=True, max_diffs=2)
    with Replica(database_url) as replica:
        replica.service.start()
        cycle_id = trial.cycle().id
        for worker in trial.join(2):
            assert replica.report(trial.process, cycle_id, diff(worker)) == "counted"
        wait_until(lambda: trial.status().state == "failed")
        status = trial.status()
        assert status.failure == "the averaging plan gave NaN or infinite values for parameter 0"
        assert status.cycle is not None
        assert (status.cycle.state, status.cycle.reports, status.latest_checkpoint) == ("averaging", 2, 1)
        assert count(database, UpdateSum) == 2

        database.transaction(lambda s: management.resume(s, trial.process.id, trial.now, TO_MASTER))
        assert trial.status().failure is None
        wait_until(lambda: trial.status().state == "failed")
        assert count(database, UpdateSum) == 2
        # Nobody tries in vain until then.
        assert database.transaction(averaging_cycles) == []

    # What made it fail is gone, say a node with less memory than the plan needs.
    database.transaction(lambda s: management.resume(s, trial.process.id, trial.now, TO_MASTER))
    assert trial.close(Mean()) is not None
    assert (trial.status().state, trial.status().failure) == ("active", None)
    assert parameters(trial, 2)[0][0] == -1


def test_averaging_that_could_not_be_begun_is_tried_again(database: Database, database_url: str) -> None:
    class Busy(Mean):
        def average(self, updates: Iterable[StoredUpdate], layout: ModelLayout) -> list[Array]:
            raise Unavailable("all sandboxes are busy", 1)

    trial = host(database, max_diffs=1)
    report(trial, 1)
    with pytest.raises(Unavailable):
        trial.close(Busy())
    assert nothing_is_closed(trial)
    assert trial.status().state == "active"
    with Replica(database_url) as replica:
        replica.service.start()
        wait_until(lambda: trial.cycle().number == 2)


def test_hosted_plans_average_in_a_process_of_their_own(database: Database, database_url: str) -> None:
    iterative = host(database, name="a", averaging_plan=running_mean_plan(1), iterative_plan=True, max_diffs=3)
    listed = host(database, name="b", averaging_plan=list_mean_plan(1, 3))
    assert (listed.process.server_config.min_diffs, listed.process.server_config.max_diffs) == (3, 3)
    with Replica(database_url) as replica:
        replica.service.start()
        for trial in (iterative, listed):
            cycle_id = trial.cycle().id
            for worker, value in zip(trial.join(3), (1, 2, 6), strict=True):
                assert replica.report(trial.process, cycle_id, diff(worker, value)) == "counted"
        wait_until(lambda: iterative.cycle().number == listed.cycle().number == 2)
    assert parameters(iterative, 2)[0].tolist() == parameters(listed, 2)[0].tolist() == [-3, -3, -3]


def test_sum_that_got_lost_is_noticed(database: Database) -> None:
    trial = host(database, max_diffs=2)
    report(trial, 1)
    report(trial, 1)
    database.transaction(
        lambda s: s.execute(text("DELETE FROM update_sums WHERE id = (SELECT min(id) FROM update_sums)"))
    )
    with pytest.raises(AveragingFailed, match="counted 2 reports but 1 are stored"):
        trial.close()
    assert nothing_is_closed(trial)


@pytest.mark.parametrize(
    ("dtype", "start", "diffs"),
    [
        ("float32", 0, [3e38, 3e38]),  # their sum overflows
        ("float16", -60000, [60000, 60000]),  # what is left of the average does
        ("float64", -1e308, [1.7e308]),
    ],
)
def test_checkpoint_is_never_infinite(database: Database, dtype: str, start: float, diffs: list[float]) -> None:
    trial = host(database, tensors=[np.full(3, start, dtype)], max_diffs=len(diffs))
    for worker, value in zip(trial.join(len(diffs)), diffs, strict=True):
        trial.report(Report(worker, [np.full(3, value, dtype)], b"d"))
    with pytest.raises(AveragingFailed):
        trial.close()
    assert nothing_is_closed(trial)
    assert count(database, UpdateSum) == len(diffs)


@pytest.mark.parametrize(
    ("dtype", "start", "diffs", "expected"),
    [
        ("float16", 1, [0.5, 0.25], 0.625),
        ("float64", 1, [1e-12, 3e-12], 1 - 2e-12),
        ("int8", 10, [2, 5], 6),  # the average 3.5 is rounded to the even 4
        ("int16", -300, [-300, -302], 1),
        ("int32", 2**30, [2**30, 2**30 - 2], 1),
        ("int64", 0, [-(2**40), -(2**40)], 2**40),
        ("uint8", 3, [250, 250], 9),  # a difference of bytes wraps: 250 means −6
        ("uint8", 250, [254, 252], 253),
    ],
)
def test_model_is_averaged_in_its_own_type(
    database: Database, dtype: str, start: float, diffs: list[float], expected: float
) -> None:
    trial = host(database, tensors=[np.full((2, 2), start, dtype)], max_diffs=2)
    reports = [
        Report(worker, [np.full((2, 2), value, dtype)], bytes([number]))
        for number, (worker, value) in enumerate(zip(trial.join(2), diffs, strict=True))
    ]
    trial.report(*reports)
    assert trial.close() is not None
    (tensor,) = parameters(trial, 2)
    assert tensor.dtype == dtype
    np.testing.assert_array_equal(tensor, np.full((2, 2), expected, dtype))


def test_many_small_numbers_add_up_in_float16(database: Database) -> None:
    """A float16 sum of ones stands still at 2048."""
    trial = host(database, tensors=[np.zeros(1, np.float16)], max_diffs=4096)
    one = [np.ones(1, np.float16)]
    trial.report(*(Report(worker, one, b"d") for worker in trial.join(4096)))
    assert trial.close() is not None
    assert parameters(trial, 2)[0].tolist() == [-1]


def test_bool_changes_where_most_devices_say_so(database: Database) -> None:
    trial = host(database, tensors=[np.array([True, True, False, False])], max_diffs=3)
    votes = [[True, True, False, True], [True, False, False, True], [True, False, True, False]]
    for worker, vote in zip(trial.join(3), votes, strict=True):
        trial.report(Report(worker, [np.array(vote)], bytes(vote)))
    assert trial.close() is not None
    assert parameters(trial, 2)[0].tolist() == [False, True, False, True]
