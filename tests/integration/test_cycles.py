"""The life of a cycle on a real database: places, leases, reports, the end."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import numpy as np
import pytest
from sqlalchemy import func, select, text

from gridnode.averaging.layout import Array, ModelLayout
from gridnode.averaging.strategy import AveragingFailed, Mean, WeightedMean
from gridnode.cycles import closing, retention
from gridnode.cycles.assignment import Accepted, Rejected
from gridnode.cycles.reports import Report
from gridnode.db.models import Assignment, OutboxEvent, UpdateSum
from gridnode.db.session import Database
from gridnode.errors import Conflict, InvalidRequest
from gridnode.processes import management
from gridnode.reporting.metrics import RejectionReason
from tests.support.domain import START, TO_MASTER, Trial, diff, host, parameters

pytestmark = pytest.mark.integration


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, pool_size=8)
    yield database
    database.close()


def reasons(answers: list[Accepted | Rejected]) -> list[RejectionReason | None]:
    return [answer.reason if isinstance(answer, Rejected) else None for answer in answers]


def rows(trial: Trial, kind: type[UpdateSum] | type[Assignment] | type[OutboxEvent]) -> int:
    return trial.database.transaction(lambda session: session.scalar(select(func.count()).select_from(kind))) or 0


def test_no_more_than_max_workers_get_a_place_and_the_others_a_time_to_come_back(database: Database) -> None:
    trial = host(database, max_workers=2, cycle_length=100)
    answers = trial.ask(*(uuid.uuid4() for _ in range(4)))
    assert reasons(answers) == [None, None, RejectionReason.CYCLE_FULL, RejectionReason.CYCLE_FULL]
    timeouts = [answer.timeout for answer in answers if isinstance(answer, Rejected)]
    assert all(timeout is not None and 100 <= timeout <= 126 for timeout in timeouts)


def test_two_replicas_never_give_a_place_twice(database: Database, database_url: str) -> None:
    trial = host(database, max_workers=20)
    replicas = [Trial(Database(database_url), trial.process) for _ in range(4)]
    accepted: list[uuid.UUID] = []

    def ask(replica: Trial) -> None:
        for _ in range(10):
            workers = [uuid.uuid4() for _ in range(3)]
            answers = replica.ask(*workers)
            accepted.extend(w for w, a in zip(workers, answers, strict=True) if isinstance(a, Accepted))

    threads = [threading.Thread(target=ask, args=(replica,)) for replica in replicas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for replica in replicas:
        replica.database.close()
    assert len(accepted) == 20
    assert trial.cycle().slots == 20


def test_random_selection_does_not_prefer_the_first(database: Database) -> None:
    trial = host(database, max_workers=3, pool_selection="random")
    answers = trial.ask(*(uuid.uuid4() for _ in range(50)))
    chosen = [index for index, answer in enumerate(answers) if isinstance(answer, Accepted)]
    assert len(chosen) == 3
    assert chosen != [0, 1, 2]


def test_repeated_request_gets_the_same_place_again(database: Database) -> None:
    trial = host(database, max_workers=1)
    (worker,) = trial.join(1)
    assert trial.ask(worker) == [Accepted(trial.cycle().id, again=True)]
    assert trial.cycle().slots == 1


def test_worker_rests_for_the_configured_number_of_cycles(database: Database) -> None:
    trial = host(database, min_diffs=1, max_diffs=1, do_not_reuse_workers_until_cycle=2)
    (worker,) = trial.join(1)
    trial.report(diff(worker))
    assert trial.close() is not None
    assert reasons(trial.ask(worker)) == [RejectionReason.USED_RECENTLY]
    (other,) = trial.join(1)
    trial.report(diff(other))
    assert trial.close() is not None
    assert reasons(trial.ask(worker)) == [None]


def test_vanished_worker_gives_its_place_back_after_the_lease_and_its_late_report_counts(database: Database) -> None:
    trial = host(database, max_workers=1, assignment_lease=60, max_diffs=1, cycle_length=1000)
    (late,) = trial.join(1)
    newcomer = uuid.uuid4()
    trial.seconds = 59
    assert reasons(trial.ask(newcomer)) == [RejectionReason.CYCLE_FULL]
    trial.seconds = 60
    assert reasons(trial.ask(newcomer)) == [None]
    assert trial.report(diff(late)).outcomes == ["counted"]


def test_lapsed_worker_that_asks_again_gets_a_place_but_is_one_device(database: Database) -> None:
    trial = host(database, max_workers=1, assignment_lease=60)
    (worker,) = trial.join(1)
    trial.seconds = 61
    assert reasons(trial.ask(uuid.uuid4())) == [None]
    assert reasons(trial.ask(worker)) == [RejectionReason.CYCLE_FULL]
    trial.seconds = 122
    assert reasons(trial.ask(worker)) == [None]
    assert (trial.cycle().slots, trial.cycle().accepted) == (1, 2)


def test_same_report_counts_once_and_another_diff_is_refused(database: Database) -> None:
    trial = host(database, max_diffs=10)
    (worker,) = trial.join(1)
    first = trial.report(diff(worker, 1), diff(worker, 1))
    assert first.outcomes == ["counted", "repeated"]
    assert trial.report(diff(worker, 1)).outcomes == ["repeated"]
    (refused,) = trial.report(diff(worker, 2)).outcomes
    assert isinstance(refused, Conflict)
    assert trial.cycle().reports == 1
    assert rows(trial, UpdateSum) == 1


def test_same_reports_to_two_replicas_at_once_count_once(database: Database, database_url: str) -> None:
    trial = host(database, max_diffs=1000)
    workers = trial.join(30)
    other = Trial(Database(database_url), trial.process)
    outcomes: list[object] = []
    threads = [
        threading.Thread(target=lambda t=t, order=order: outcomes.extend(t.report(*map(diff, order)).outcomes))
        for t, order in ((trial, workers), (other, workers[::-1]))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.database.close()
    assert (outcomes.count("counted"), outcomes.count("repeated")) == (30, 30)
    assert trial.cycle().reports == 30


def test_batch_is_cut_at_max_diffs_with_the_repeats_of_what_is_cut(database: Database) -> None:
    trial = host(database, max_diffs=2)
    a, b, c = trial.join(3)
    outcomes = trial.report(diff(a), diff(b), diff(c), diff(c)).outcomes
    assert outcomes[:2] == ["counted", "counted"]
    assert all(isinstance(outcome, Conflict) for outcome in outcomes[2:])
    assert trial.cycle().reports == 2


def test_report_of_a_stranger_is_refused(database: Database) -> None:
    trial = host(database, max_diffs=2)
    (outcome,) = trial.report(diff(uuid.uuid4())).outcomes
    assert isinstance(outcome, InvalidRequest)


def test_last_report_ends_the_cycle_at_once(database: Database) -> None:
    trial = host(database, max_diffs=1)
    (worker,) = trial.join(1)
    trial.report(diff(worker))
    assert trial.cycle().state == "averaging"
    assert reasons(trial.ask(uuid.uuid4())) == [RejectionReason.AVERAGING]


def test_repeat_after_the_cycle_is_over_is_answered_and_a_late_report_is_not(database: Database) -> None:
    trial = host(database, max_diffs=1, max_workers=2)
    a, b = trial.join(2)
    cycle_id = trial.cycle().id
    trial.report(diff(a))
    trial.close()
    assert trial.report(diff(a), cycle=cycle_id).outcomes == ["repeated"]
    (outcome,) = trial.report(diff(b), cycle=cycle_id).outcomes
    assert isinstance(outcome, Conflict)


def test_deadline_closes_with_min_diffs_and_not_before(database: Database) -> None:
    trial = host(database, min_diffs=2, cycle_length=100)
    a, b = trial.join(2)
    trial.report(diff(a))
    trial.seconds = 101
    assert trial.close() is None
    status = trial.status().cycle
    assert status is not None
    assert status.starved
    trial.report(diff(b))
    assert trial.close() is not None
    assert trial.cycle().number == 2


def test_deadline_waits_for_min_workers(database: Database) -> None:
    trial = host(database, min_workers=2, cycle_length=10)
    (worker,) = trial.join(1)
    trial.report(diff(worker))
    trial.seconds = 11
    assert trial.close() is None
    trial.join(1)
    assert trial.close() is not None


def test_min_diffs_closes_where_nothing_else_would(database: Database) -> None:
    trial = host(database, min_diffs=2)
    a, b = trial.join(2)
    trial.report(diff(a))
    assert trial.close() is None
    trial.report(diff(b))
    assert trial.close() is not None


def test_checkpoint_is_old_minus_mean_and_the_event_comes_with_it(database: Database) -> None:
    trial = host(database, max_diffs=3, num_cycles=1)
    a, b, c = trial.join(3)
    trial.report(diff(a, 1), diff(b, 2))
    trial.report(diff(c, 6))
    closed = trial.close()
    assert closed is not None
    assert closed.finished
    (tensor,) = parameters(trial, 2)
    np.testing.assert_array_equal(tensor, np.full(3, -3, np.float32))
    assert rows(trial, OutboxEvent) == 1
    assert trial.status().state == "finished"
    assert trial.ask(uuid.uuid4()) == [Rejected(RejectionReason.FINISHED, None)]


def test_weighted_mean_weighs_by_samples(database: Database) -> None:
    trial = host(database, max_diffs=2, aggregation={"strategy": "weighted_mean"})
    a, b = trial.join(2)
    trial.report(diff(a, 1, weight=3), diff(b, 5, weight=1))
    trial.close(WeightedMean())
    np.testing.assert_array_equal(parameters(trial, 2)[0], np.full(3, -2, np.float32))


def test_of_two_closers_one_closes(database: Database, database_url: str) -> None:
    trial = host(database, max_diffs=1)
    (worker,) = trial.join(1)
    trial.report(diff(worker))
    cycle_id = trial.cycle().id
    with database.sessions.begin() as first:
        assert closing.close_cycle(first, cycle_id, trial.process, Mean(), trial.now, TO_MASTER) is not None
        assert trial.close() is None
        # Nobody waits behind the one that averages.
        assert reasons(trial.ask(uuid.uuid4())) == [RejectionReason.AVERAGING]
    assert trial.cycle().number == 2
    assert rows(trial, OutboxEvent) == 1


def test_closer_that_dies_leaves_nothing_and_another_does_it(database: Database) -> None:
    trial = host(database, max_diffs=1)
    (worker,) = trial.join(1)
    trial.report(diff(worker))
    session = database.sessions()
    session.begin()
    closing.close_cycle(session, trial.cycle().id, trial.process, Mean(), trial.now, TO_MASTER)
    backend = session.scalar(text("SELECT pg_backend_pid()"))
    database.transaction(lambda other: other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": backend}))
    session.invalidate()
    assert rows(trial, OutboxEvent) == 0
    assert trial.close() is not None
    assert rows(trial, OutboxEvent) == 1


class _Failing(Mean):
    def average(self, updates: object, layout: ModelLayout) -> list[Array]:
        raise AveragingFailed("it always fails")


def test_failed_averaging_keeps_all_reports_and_resume_tries_again(database: Database) -> None:
    trial = host(database, max_diffs=1)
    (worker,) = trial.join(1)
    trial.report(diff(worker))
    with pytest.raises(AveragingFailed):
        trial.close(_Failing())
    database.transaction(lambda session: closing.fail_process(session, trial.process.id, "it always fails"))
    assert trial.status().failure == "it always fails"
    assert trial.close() is None
    assert rows(trial, UpdateSum) == 1
    database.transaction(lambda session: management.resume(session, trial.process.id))
    assert trial.close() is not None


def test_paused_process_takes_reports_but_no_devices(database: Database) -> None:
    trial = host(database, max_diffs=5)
    (worker,) = trial.join(1)
    database.transaction(lambda session: management.pause(session, trial.process.id))
    (rejected,) = trial.ask(uuid.uuid4())
    assert isinstance(rejected, Rejected)
    assert rejected.reason is RejectionReason.PAUSED
    assert rejected.timeout is not None
    assert trial.report(diff(worker)).outcomes == ["counted"]


def test_finish_early_averages_a_cycle_that_has_enough(database: Database) -> None:
    trial = host(database, min_diffs=1, max_diffs=5, num_cycles=9)
    (worker,) = trial.join(1)
    trial.report(diff(worker))
    done = database.transaction(lambda s: management.finish(s, trial.process.id, START, TO_MASTER))
    assert done == management.Finishing(averaging=True, dropped_reports=0)
    closed = trial.close()
    assert closed is not None
    assert closed.finished
    assert trial.status().latest_checkpoint == 2


def test_finish_early_drops_a_cycle_that_has_not(database: Database) -> None:
    trial = host(database, min_diffs=2, max_diffs=5)
    (worker,) = trial.join(1)
    trial.report(diff(worker))
    done = database.transaction(lambda s: management.finish(s, trial.process.id, START, TO_MASTER))
    assert done == management.Finishing(averaging=False, dropped_reports=1)
    assert trial.cycle().state == "abandoned"
    assert trial.status().progress == 100
    again = database.transaction(lambda s: management.finish(s, trial.process.id, START, TO_MASTER))
    assert again == management.Finishing(averaging=False, dropped_reports=0)
    assert rows(trial, OutboxEvent) == 1


def test_delete_needs_force_once_there_are_reports_and_leaves_no_rows(database: Database) -> None:
    trial = host(database, max_diffs=5)
    (worker,) = trial.join(1)
    trial.report(diff(worker))
    with pytest.raises(Conflict, match="force"):
        database.transaction(lambda s: management.delete_process(s, trial.process.id, START, TO_MASTER, force=False))
    database.transaction(lambda s: management.delete_process(s, trial.process.id, START, TO_MASTER, force=True))
    assert rows(trial, UpdateSum) == rows(trial, Assignment) == 0
    assert rows(trial, OutboxEvent) == 1


def test_sums_of_ended_cycles_are_deleted_and_those_of_running_ones_kept(database: Database) -> None:
    trial = host(database, max_diffs=1)
    for _ in range(2):
        (worker,) = trial.join(1)
        trial.report(diff(worker))
        trial.close()
    (worker,) = trial.join(1)
    trial.report(diff(worker))
    assert database.transaction(retention.delete_leftover_sums) == 2
    assert rows(trial, UpdateSum) == 1


def test_old_checkpoints_go_but_the_first_and_the_newest(database: Database) -> None:
    trial = host(database, max_diffs=1)
    for _ in range(4):
        (worker,) = trial.join(1)
        trial.report(diff(worker))
        trial.close()
    assert database.transaction(lambda session: retention.delete_old_checkpoints(session, 2)) == 2
    kept = database.transaction(
        lambda session: session.scalars(text("SELECT number FROM checkpoints ORDER BY number")).all()
    )
    assert kept == [1, 4, 5]


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "int64", "uint8"])
def test_models_of_other_types_are_averaged_in_their_own(database: Database, dtype: str) -> None:
    start = np.full(3, 10, dtype)
    trial = host(database, tensors=[start], max_diffs=2)
    a, b = trial.join(2)
    reports = [Report(worker, [np.full(3, value, dtype)], bytes([value])) for worker, value in ((a, 2), (b, 4))]
    trial.report(*reports)
    trial.close()
    (tensor,) = parameters(trial, 2)
    assert tensor.dtype == dtype
    np.testing.assert_array_equal(tensor, np.full(3, 7, dtype))


def test_bool_changes_where_most_devices_say_so(database: Database) -> None:
    trial = host(database, tensors=[np.array([True, True, False])], max_diffs=3)
    workers = trial.join(3)
    flags = [[True, True, False], [True, False, False], [True, False, True]]
    reports = [Report(w, [np.array(f)], bytes(f)) for w, f in zip(workers, flags, strict=True)]
    trial.report(*reports)
    trial.close()
    np.testing.assert_array_equal(parameters(trial, 2)[0], [False, True, False])
