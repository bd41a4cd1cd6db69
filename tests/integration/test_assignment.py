"""Who gets a place in the running cycle, with several replicas giving places at once."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text

from gridnode.cycles.assignment import Accepted, Rejected, assign_workers, lapse_leases, place_new_workers
from gridnode.db.session import Database
from gridnode.processes import states
from gridnode.reporting.metrics import RejectionReason
from tests.support.domain import Trial, diff, host
from tests.support.replica import Replica, SlowMean
from tests.support.threads import Background, at_once

pytestmark = pytest.mark.integration


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, pool_size=4)
    yield database
    database.close()


@pytest.fixture
def replicas(database_url: str) -> Iterator[tuple[Replica, Replica]]:
    with Replica(database_url) as first, Replica(database_url) as second:
        yield first, second


def reason(trial: Trial, worker: uuid.UUID) -> RejectionReason | None:
    (answer,) = trial.ask(worker)
    return answer.reason if isinstance(answer, Rejected) else None


def pass_a_cycle(trial: Trial) -> None:
    """Somebody else does what is to be done."""
    (other,) = trial.join(1)
    trial.report(diff(other))
    assert trial.close() is not None


def test_two_replicas_under_load_give_exactly_max_workers_places(
    database: Database, replicas: tuple[Replica, Replica]
) -> None:
    trial = host(database, max_workers=7, cycle_length=1000)
    works = [partial(replica.request_cycle, trial.process, uuid.uuid4()) for replica in replicas for _ in range(15)]
    answers = at_once(works)
    kinds = Counter(answer.reason if isinstance(answer, Rejected) else type(answer) for answer in answers)
    assert kinds == {Accepted: 7, RejectionReason.CYCLE_FULL: 23}
    cycle = trial.cycle()
    assert (cycle.slots, cycle.accepted) == (7, 7)


def test_worker_that_asks_two_replicas_at_once_has_one_place(
    database: Database, replicas: tuple[Replica, Replica]
) -> None:
    trial = host(database, max_workers=2, cycle_length=1000)
    worker = uuid.uuid4()
    answers = at_once([partial(replica.request_cycle, trial.process, worker) for replica in replicas * 4])
    assert all(isinstance(answer, Accepted) and answer.cycle_id == trial.cycle().id for answer in answers)
    assert [answer.again for answer in answers if isinstance(answer, Accepted)].count(False) >= 1
    cycle = trial.cycle()
    assert (cycle.slots, cycle.accepted) == (1, 1)


def test_worker_that_asks_again_keeps_its_place_though_the_cycle_is_full(database: Database) -> None:
    trial = host(database, max_workers=1)
    (worker,) = trial.join(1)
    assert trial.ask(worker) == [Accepted(trial.cycle().id, again=True)]
    assert (trial.cycle().slots, trial.cycle().accepted) == (1, 1)


def place_new(trial: Trial, *workers: uuid.UUID) -> dict[uuid.UUID, Accepted]:
    return place_new_workers(trial.database, trial.process, workers, trial.now)


def test_new_workers_get_places_by_one_statement(database: Database) -> None:
    trial = host(database, max_workers=3, cycle_length=1000, assignment_lease=60)
    workers = [uuid.uuid4() for _ in range(3)]
    cycle_id = trial.cycle().id
    # One comes twice, and has one place.
    assert place_new(trial, *workers[:2], workers[0]) == dict.fromkeys(workers[:2], Accepted(cycle_id))
    assert place_new(trial, workers[2]) == {workers[2]: Accepted(cycle_id)}
    cycle = trial.cycle()
    assert (cycle.slots, cycle.accepted) == (3, 3)
    # Its lease is that of the process, and its place one for a report.
    trial.seconds = 60
    assert database.transaction(lambda s: lapse_leases(s, cycle_id, trial.now)) == 3
    assert trial.report(*map(diff, workers)).total == 3


def test_batch_with_more_than_there_is_room_for_is_decided_with_care(database: Database) -> None:
    trial = host(database, max_workers=3, cycle_length=1000)
    trial.join(1)
    assert place_new(trial, *(uuid.uuid4() for _ in range(3))) == {}
    assert trial.cycle().slots == 1


def test_worker_that_was_in_a_cycle_before_is_decided_with_care(database: Database) -> None:
    trial = host(database, max_diffs=1)
    (past,) = trial.join(1)
    trial.report(diff(past))
    trial.close()
    (present,) = trial.join(1)
    new = uuid.uuid4()
    assert place_new(trial, past, new, present) == {new: Accepted(trial.cycle().id)}
    assert trial.cycle().slots == 2


@pytest.mark.parametrize("state", ["paused", "failed", "finished", "averaging", None])
def test_nobody_gets_a_place_by_one_statement_where_nobody_is_accepted(database: Database, state: Any) -> None:
    trial = host(database, max_diffs=1)
    if state == "averaging":
        (worker,) = trial.join(1)
        trial.report(diff(worker))
    elif state is None:
        database.transaction(lambda s: s.execute(text("DELETE FROM processes")))
    else:
        database.transaction(lambda s: states.move(s, trial.process.id, state))
    assert place_new(trial, uuid.uuid4()) == {}


def test_replica_answers_everybody_in_a_batch_of_old_and_new(
    database: Database, replicas: tuple[Replica, Replica]
) -> None:
    trial = host(database, max_diffs=2, do_not_reuse_workers_until_cycle=5)
    old = trial.join(2)
    trial.report(*map(diff, old))
    trial.close()
    (present,) = trial.join(1)
    asked = [old[0], uuid.uuid4(), present, old[1], uuid.uuid4()]
    futures = [replicas[0].intake.request_cycle(trial.process, worker) for worker in asked]
    answers = [future.result(20) for future in futures]
    kinds = [answer.reason if isinstance(answer, Rejected) else answer.again for answer in answers]
    used = RejectionReason.USED_RECENTLY
    assert kinds == [used, False, True, used, False]


def test_worker_that_asks_twice_in_one_batch_has_one_place(database: Database) -> None:
    trial = host(database, max_workers=2)
    worker, other = uuid.uuid4(), uuid.uuid4()
    answers = trial.ask(worker, worker, other)
    assert all(isinstance(answer, Accepted) for answer in answers)
    assert trial.cycle().slots == 2


def test_iterate_takes_workers_in_the_order_in_which_they_ask(database: Database) -> None:
    trial = host(database, max_workers=5, pool_selection="iterate")
    answers = trial.ask(*(uuid.uuid4() for _ in range(40)))
    assert [isinstance(answer, Accepted) for answer in answers] == [True] * 5 + [False] * 35


def test_random_draws_among_those_that_ask_at_the_same_moment(database: Database) -> None:
    trial = host(database, max_workers=5, pool_selection="random")
    workers = [uuid.uuid4() for _ in range(40)]
    drawn = set()
    for seed in range(4):
        with database.sessions() as session:  # which is never committed
            answers = assign_workers(session, trial.process, workers, trial.now, random.Random(seed))
        positions = tuple(position for position, answer in enumerate(answers) if isinstance(answer, Accepted))
        assert len(positions) == 5
        drawn.add(positions)
    assert len(drawn) == 4


@pytest.mark.parametrize(
    ("rest", "accepted_again_in"), [(0, [2, 3, 4, 5]), (1, [2, 3, 4, 5]), (2, [3, 5]), (3, [4]), (6, [])]
)
def test_worker_of_cycle_k_is_accepted_again_from_cycle_k_plus_n_on(
    database: Database, rest: int, accepted_again_in: list[int]
) -> None:
    trial = host(database, max_diffs=1, do_not_reuse_workers_until_cycle=rest)
    (worker,) = trial.join(1)
    pass_a_cycle(trial)
    accepted_in = []
    for number in range(2, 6):
        rejection = reason(trial, worker)
        assert rejection in (None, RejectionReason.USED_RECENTLY)
        if rejection is None:
            accepted_in.append(number)
        pass_a_cycle(trial)
    assert accepted_in == accepted_again_in


def test_worker_that_has_reported_is_not_accepted_twice_into_a_cycle(database: Database) -> None:
    trial = host(database, max_diffs=5, do_not_reuse_workers_until_cycle=0)
    (worker,) = trial.join(1)
    trial.report(diff(worker))
    assert reason(trial, worker) is RejectionReason.ALREADY_IN_CYCLE


def test_rest_is_counted_per_process(database: Database) -> None:
    first = host(database, name="first", max_diffs=1, do_not_reuse_workers_until_cycle=9)
    second = host(database, name="second", max_diffs=1, do_not_reuse_workers_until_cycle=9)
    (worker,) = first.join(1)
    pass_a_cycle(first)
    (other,) = second.join(1)
    pass_a_cycle(second)
    assert reason(first, worker) is reason(second, other) is RejectionReason.USED_RECENTLY


def test_rejected_workers_are_asked_back_when_a_place_may_be_free_and_not_all_at_once(database: Database) -> None:
    trial = host(database, max_workers=1, max_diffs=1, cycle_length=5000, assignment_lease=100)
    trial.join(1)
    trial.seconds = 20
    answers = trial.ask(*(uuid.uuid4() for _ in range(50)))
    timeouts = [answer.timeout for answer in answers if isinstance(answer, Rejected)]
    assert len(timeouts) == 50
    assert all(timeout is not None and 80 <= timeout <= 101 for timeout in timeouts)
    assert len(set(timeouts)) > 10


def test_worker_that_may_not_come_again_is_asked_back_at_the_end_of_the_cycle(database: Database) -> None:
    trial = host(database, max_diffs=5, cycle_length=1000)
    (worker,) = trial.join(1)
    trial.report(diff(worker))
    (answer,) = trial.ask(worker)
    assert isinstance(answer, Rejected)
    assert answer.timeout is not None
    assert 1000 <= answer.timeout <= 1251


@pytest.mark.parametrize(
    ("state", "reason", "is_asked_back"),
    [
        ("paused", RejectionReason.PAUSED, True),
        ("failed", RejectionReason.FAILED, True),
        ("finished", RejectionReason.FINISHED, False),
    ],
)
def test_process_that_takes_nobody_says_why(
    database: Database, state: states.ProcessState, reason: RejectionReason, is_asked_back: bool
) -> None:
    trial = host(database)
    (worker,) = trial.join(1)
    database.transaction(lambda s: states.move(s, trial.process.id, state))
    for answer in trial.ask(worker, uuid.uuid4()):
        assert isinstance(answer, Rejected)
        assert answer.reason is reason
        assert (answer.timeout is not None) == is_asked_back


def test_nobody_waits_behind_the_averaging(database: Database, replicas: tuple[Replica, Replica]) -> None:
    trial = host(database, max_diffs=1)
    (worker,) = trial.join(1)
    trial.report(diff(worker))
    averaging = SlowMean()
    closer = Background(lambda: trial.close(averaging))
    averaging.began.wait()
    asking = Background(lambda: replicas[0].request_cycle(trial.process, uuid.uuid4()))
    answer = asking.result(timeout=2)
    assert isinstance(answer, Rejected)
    assert answer.reason is RejectionReason.AVERAGING
    assert answer.timeout is not None
    assert answer.timeout <= 3
    averaging.go_on.set()
    assert closer.result() is not None
    assert isinstance(replicas[0].request_cycle(trial.process, uuid.uuid4()), Accepted)
