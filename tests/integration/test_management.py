"""What people do with processes, while devices and closers are at work on them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import Any, cast

import pytest
from flask import Flask
from sqlalchemy import event, func, select, text

from gridnode.cycles import closing
from gridnode.cycles.assignment import Accepted, Rejected
from gridnode.cycles.reports import Committed
from gridnode.db.models import Base, OutboxEvent
from gridnode.db.session import Database
from gridnode.errors import Conflict, GridNodeError, InvalidRequest, NotFound
from gridnode.processes import management, states
from gridnode.processes.catalog import Catalog
from gridnode.protocol.hosting import HostingEndpoints
from gridnode.protocol.management import make_management_app
from gridnode.reporting.metrics import RejectionReason
from gridnode.security.management_token import ManagementAccess
from tests.support.domain import START, TO_MASTER, Trial, diff, host, parameters
from tests.support.replica import Holding
from tests.support.threads import Background, at_once

pytestmark = pytest.mark.integration


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, pool_size=4)
    yield database
    database.close()


def finish(trial: Trial) -> management.Finishing:
    return trial.database.transaction(lambda s: management.finish(s, trial.process.id, trial.now, TO_MASTER))


def delete(trial: Trial, *, force: bool = True) -> None:
    trial.database.transaction(
        lambda s: management.delete_process(s, trial.process.id, trial.now, TO_MASTER, force=force)
    )


def report_once(trial: Trial, *, close: bool = True) -> None:
    (worker,) = trial.join(1)
    trial.report(diff(worker))
    if close:
        assert trial.close() is not None


def told(database: Database) -> list[dict[str, Any]]:
    """The events for the master node, in order."""
    return list(database.transaction(lambda s: s.scalars(select(OutboxEvent.body).order_by(OutboxEvent.id)).all()))


def rows_by_table(database: Database) -> dict[str, int]:
    """Rows of each table that has any, but the outbox."""
    tables = [table for table in Base.metadata.sorted_tables if table.name != "outbox"]
    counts = database.transaction(
        lambda s: {table.name: s.scalars(select(func.count()).select_from(table)).one() for table in tables}
    )
    return {name: count for name, count in counts.items() if count}


def move(trial: Trial, to: states.ProcessState) -> None:
    trial.database.transaction(lambda s: states.move(s, trial.process.id, to))


@pytest.mark.parametrize("source", states.MOVES)
def test_move_between_states_is_allowed_or_refused_as_the_table_says(
    database: Database, source: states.ProcessState
) -> None:
    trial = host(database)
    for target in states.MOVES:
        database.transaction(lambda s: s.execute(text("UPDATE processes SET state = :state"), {"state": source}))
        if target in states.MOVES[source] or target == source:
            move(trial, target)
            assert trial.status().state == target
        else:
            with pytest.raises(Conflict, match=source):
                move(trial, target)
            assert trial.status().state == source


def test_move_of_a_process_that_is_gone_is_refused(database: Database) -> None:
    with pytest.raises(Conflict, match="gone"):
        database.transaction(lambda s: states.move(s, 7, "paused"))


def test_paused_process_ends_its_cycle_and_goes_on_when_resumed(database: Database) -> None:
    trial = host(database, max_diffs=1)
    (worker,) = trial.join(1)
    database.transaction(lambda s: management.pause(s, trial.process.id, trial.now, TO_MASTER))
    trial.report(diff(worker))
    assert trial.close() is not None
    (rejected,) = trial.ask(uuid.uuid4())
    assert isinstance(rejected, Rejected)
    assert rejected.reason is RejectionReason.PAUSED
    database.transaction(lambda s: management.resume(s, trial.process.id, trial.now, TO_MASTER))
    trial.join(1)
    assert trial.cycle().number == 2


def test_failed_process_can_not_be_paused_and_keeps_its_reason_until_it_is_resumed(database: Database) -> None:
    trial = host(database, max_diffs=1)
    report_once(trial, close=False)
    database.transaction(lambda s: closing.fail_process(s, trial.process.id, "it always fails", trial.now, TO_MASTER))
    with pytest.raises(Conflict, match=r"is failed, it can't become paused\. It failed: it always fails\. Resume it"):
        database.transaction(lambda s: management.pause(s, trial.process.id, trial.now, TO_MASTER))
    assert (trial.status().state, trial.status().failure) == ("failed", "it always fails")
    assert trial.close() is None
    database.transaction(lambda s: management.resume(s, trial.process.id, trial.now, TO_MASTER))
    assert (trial.status().state, trial.status().failure) == ("active", None)
    assert trial.close() is not None


def test_process_without_end_has_no_progress_and_is_never_finished(database: Database) -> None:
    trial = host(database, max_diffs=1, num_cycles=0)
    for completed in range(3):
        status = trial.status()
        assert (status.state, status.progress, status.completed_cycles) == ("active", None, completed)
        report_once(trial)
    assert [body["percent_complete"] for body in told(database)] == [0, 0, 0]
    finish(trial)
    assert trial.status().progress == told(database)[-1]["percent_complete"] == 100


def test_progress_is_told_after_each_cycle_and_full_with_the_last(database: Database) -> None:
    trial = host(database, max_diffs=1, num_cycles=3)
    seen = []
    for _ in range(3):
        report_once(trial)
        seen.append(trial.status().progress)
    events = [(body["cycle"], body["percent_complete"], body["finished"]) for body in told(database)]
    assert events == [(1, 33, False), (2, 66, False), (3, 100, True)]
    assert seen == [33, 66, 100]
    assert trial.status().cycle is None


def test_every_change_of_a_process_is_told_with_what_its_cycle_waits_for(database: Database) -> None:
    trial = host(database, min_diffs=2, max_diffs=2, min_workers=1, cycle_length=60)
    trial.join(1)
    trial.seconds = 5
    for _ in range(2):
        # Pausing what is paused is no change.
        database.transaction(lambda s: management.pause(s, trial.process.id, trial.now, TO_MASTER))
    database.transaction(lambda s: management.resume(s, trial.process.id, trial.now, TO_MASTER))
    for _ in range(2):
        database.transaction(lambda s: closing.fail_process(s, trial.process.id, "it fails", trial.now, TO_MASTER))
    finish(trial)
    events = told(database)
    assert [(body["state"], body["failure"], body["cycle"]) for body in events] == [
        ("paused", None, 0), ("active", None, 0), ("failed", "it fails", 0), ("finished", "it fails", 0),
    ]  # fmt: skip
    assert events[0]["running"] == {
        "number": 1,
        "state": "open",
        "started_at": START.isoformat(),
        "deadline": (START + timedelta(seconds=60)).isoformat(),
        "accepted": 1,
        "working": 1,
        "reports": 0,
        "min_workers": 1,
        "min_diffs": 2,
        "max_diffs": 2,
    }
    assert events[3]["running"] is None
    assert (events[3]["cycle_number"], events[3]["cycle_state"], events[3]["accepted"]) == (1, "abandoned", 1)
    assert all("cycle_number" not in body for body in events[:3])


def test_finishing_with_enough_reports_averages_them_first(database: Database) -> None:
    trial = host(database, min_diffs=1, max_diffs=5, num_cycles=9)
    report_once(trial, close=False)
    assert finish(trial) == management.Finishing(averaging=True, dropped_reports=0)
    (rejected,) = trial.ask(uuid.uuid4())
    assert isinstance(rejected, Rejected)
    assert rejected.reason is RejectionReason.AVERAGING
    assert told(database) == []
    closed = trial.close()
    assert closed is not None
    assert closed.finished
    assert parameters(trial, 2)[0].tolist() == [-1, -1, -1]
    assert [(body["finished"], body["cycle"]) for body in told(database)] == [(True, 1)]


def test_finishing_twice_changes_nothing_more(database: Database) -> None:
    trial = host(database, min_diffs=2, max_diffs=5)
    report_once(trial, close=False)
    assert finish(trial) == management.Finishing(averaging=False, dropped_reports=1)
    finished_at = trial.status().finished_at
    trial.seconds = 60
    assert finish(trial) == management.Finishing(averaging=False, dropped_reports=0)
    assert trial.status().finished_at == finished_at
    assert len(told(database)) == 1


def test_finishing_a_failed_process_gives_its_reports_up(database: Database) -> None:
    trial = host(database, max_diffs=1)
    report_once(trial, close=False)
    database.transaction(lambda s: closing.fail_process(s, trial.process.id, "it always fails", trial.now, TO_MASTER))
    assert finish(trial) == management.Finishing(averaging=False, dropped_reports=1)
    status = trial.status()
    assert (status.state, status.latest_checkpoint, status.cycle) == ("finished", 1, None)
    assert trial.close() is None


def test_finishing_while_a_cycle_closes_leaves_no_cycle_running(database: Database) -> None:
    """The one that finishes waits for the closer, and finds the cycle that the closer has begun."""
    trial = host(database, min_diffs=1, max_diffs=1)
    report_once(trial, close=False)
    closer = Holding(database)
    closer.close_cycle(trial)
    finishing = Background(lambda: finish(trial))
    closer.commit_behind(database, finishing)
    assert finishing.result() == management.Finishing(averaging=False, dropped_reports=0)
    status = trial.status()
    assert (status.state, status.completed_cycles, status.cycle) == ("finished", 1, None)
    assert trial.cycle().state == "abandoned"
    assert [body["finished"] for body in told(database)] == [False, True]


@pytest.mark.parametrize(
    ("method", "path", "answer"),
    [
        ("POST", "/processes/{}/finish", {"averaging": False, "dropped_reports": 0}),
        ("DELETE", "/processes/{}?force=true", {"status": "deleted"}),
    ],
    ids=["finish", "delete"],
)
def test_who_finishes_or_deletes_waits_for_a_slow_averaging_plan_longer_than_phones_do(
    database: Database, database_url: str, method: str, path: str, answer: dict[str, Any]
) -> None:
    trial = host(database, min_diffs=1, max_diffs=1)
    report_once(trial, close=False)
    impatient = Database(database_url, deadline=0.3)
    client = management_app(impatient).test_client()
    closer = Holding(database)
    closer.close_cycle(trial)
    asking = Background(lambda: client.open(path.format(trial.process.id), method=method))
    assert not asking.is_done(1.5)
    closer.commit_behind(database, asking)
    response = asking.result()
    assert (response.status_code, response.json) == (200, answer)
    impatient.close()


def management_app(database: Database) -> Flask:
    """The management listener's application, without hosting."""
    return make_management_app(
        database,
        Catalog(database),
        cast(HostingEndpoints, None),
        TO_MASTER,
        ManagementAccess(None),
        is_ready=lambda: None,
        render_metrics=lambda: b"",
        event_written=lambda: None,
    )


def test_report_that_is_under_way_is_counted_before_the_process_finishes(database: Database) -> None:
    trial = host(database, min_diffs=1, max_diffs=5)
    (worker,) = trial.join(1)
    reporter = Holding(database)
    reporter.report(trial, worker)
    finishing = Background(lambda: finish(trial))
    reporter.commit_behind(database, finishing)
    assert finishing.result() == management.Finishing(averaging=True, dropped_reports=0)


def test_report_and_finishing_at_once_never_lose_an_acknowledged_report(database: Database) -> None:
    """Whoever comes first: a report that was counted is averaged, one that was not is refused."""
    for number in range(2):
        trial = host(database, name=f"trial-{number}", min_diffs=1, max_diffs=5)
        (worker,) = trial.join(1)
        reported, finished = at_once([partial(trial.report, diff(worker)), partial(finish, trial)])
        trial.close()
        assert isinstance(reported, Committed)
        counted = reported.outcomes == ["counted"]
        assert counted == (trial.status().latest_checkpoint == 2)
        assert finished == management.Finishing(averaging=counted, dropped_reports=0)


def test_process_with_reports_is_deleted_with_force_only(database: Database) -> None:
    trial = host(database, max_diffs=2)
    trial.join(1)
    delete(trial, force=False)
    assert rows_by_table(database) == {}

    trial = host(database, max_diffs=2)
    report_once(trial, close=False)
    with pytest.raises(Conflict, match="1 reports"):
        delete(trial, force=False)
    assert trial.status().state == "active"
    delete(trial, force=True)
    assert rows_by_table(database) == {}


def test_deletion_takes_all_rows_of_this_process_and_no_others(database: Database) -> None:
    kept = host(database, name="kept", max_diffs=1)
    report_once(kept)
    report_once(kept, close=False)
    before = rows_by_table(database)
    trial = host(database, name="deleted", max_diffs=1)
    report_once(trial)
    report_once(trial, close=False)
    assert rows_by_table(database) == {name: 2 * count for name, count in before.items()}
    delete(trial)
    assert rows_by_table(database) == before
    assert kept.close() is not None


def test_deletion_is_told_to_the_master_node(database: Database) -> None:
    trial = host(database)
    delete(trial)
    (body,) = told(database)
    assert (body["model_id"], body["deleted"], body["finished"]) == ("trial", True, False)


def test_of_two_deletions_at_once_one_finds_nothing(database: Database) -> None:
    for number, state in enumerate(["active", "finished"]):
        trial = host(database, name=state)
        if state == "finished":
            finish(trial)
        outcomes = at_once([partial(delete, trial)] * 2)
        assert [type(outcome) for outcome in outcomes if outcome is not None] == [NotFound]
        assert sum(body["deleted"] for body in told(database)) == number + 1
    assert rows_by_table(database) == {}


def test_deletion_while_a_report_is_under_way_leaves_none_of_it(database: Database) -> None:
    trial = host(database, max_diffs=5)
    (worker,) = trial.join(1)
    reporter = Holding(database)
    reporter.report(trial, worker)
    deleting = Background(lambda: delete(trial))
    reporter.commit_behind(database, deleting)
    deleting.result()
    assert rows_by_table(database) == {}


def test_deletion_while_a_cycle_closes_leaves_nothing(database: Database) -> None:
    trial = host(database, max_diffs=1)
    report_once(trial, close=False)
    closer = Holding(database)
    closer.close_cycle(trial)
    deleting = Background(lambda: delete(trial))
    closer.commit_behind(database, deleting)
    deleting.result()
    assert rows_by_table(database) == {}


def test_worker_accepted_into_the_following_cycle_leaves_nothing_either(database: Database, database_url: str) -> None:
    """The deletion waits for the closer; when it wakes up, a worker is just being accepted into the next cycle."""
    trial = host(database, max_diffs=1)
    report_once(trial, close=False)
    closer, joining = Holding(database), Holding(database)
    closer.close_cycle(trial)
    deleter = Trial(Database(database_url), trial.process)

    accepted: list[Accepted] = []

    def accept_a_worker(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "FOR UPDATE" in statement and not accepted:
            accepted.append(joining.ask(trial, uuid.uuid4()))

    event.listen(deleter.database.engine, "after_cursor_execute", accept_a_worker)
    deleting = Background(lambda: delete(deleter))
    closer.commit_behind(database, deleting)
    joining.commit_behind(database, deleting)
    deleting.result()
    deleter.database.close()
    assert len(accepted) == 1
    assert rows_by_table(database) == {}


def test_report_and_deletion_at_once_leave_nothing(database: Database) -> None:
    for number in range(2):
        trial = host(database, name=f"trial-{number}", max_diffs=5)
        (worker,) = trial.join(1)
        cycle_id = trial.cycle().id
        reported, deleted = at_once([partial(trial.report, diff(worker), cycle=cycle_id), partial(delete, trial)])
        assert deleted is None
        assert isinstance(reported, Committed)
        (outcome,) = reported.outcomes
        assert outcome == "counted" or isinstance(outcome, GridNodeError)
        assert rows_by_table(database) == {}


def test_device_of_a_deleted_process_is_told_that_it_is_over(database: Database) -> None:
    trial = host(database, max_diffs=2)
    (worker,) = trial.join(1)
    cycle_id = trial.cycle().id
    delete(trial)
    assert trial.ask(uuid.uuid4()) == [Rejected(RejectionReason.FINISHED, None)]
    (outcome,) = trial.report(diff(worker), cycle=cycle_id).outcomes
    assert isinstance(outcome, InvalidRequest)


def test_list_is_in_pages_and_narrowed_by_name_and_version(database: Database) -> None:
    for name in ("a", "b", "c"):
        host(database, name=name)
    listed = database.transaction(lambda s: management.list_processes(s, START))
    assert [process.name for process in listed] == ["a", "b", "c"]
    page = database.transaction(lambda s: management.list_processes(s, START, after=listed[0].id, limit=1))
    assert [process.name for process in page] == ["b"]
    named = database.transaction(lambda s: management.list_processes(s, START, name="c", version="1"))
    assert [process.name for process in named] == ["c"]
    assert database.transaction(lambda s: management.list_processes(s, START, name="c", version="2")) == []


def test_list_shows_the_running_cycle(database: Database) -> None:
    trial = host(database, min_diffs=2, max_diffs=3, cycle_length=60, max_workers=4)
    a, _, _ = trial.join(3)
    trial.report(diff(a))
    shown = trial.status().cycle
    assert shown == management.CycleStatus(
        number=1,
        state="open",
        started_at=START,
        deadline=START + timedelta(seconds=60),
        accepted=3,
        working=2,
        reports=1,
        min_diffs=2,
        max_diffs=3,
        starved=False,
    )


def test_list_shows_no_secret(database: Database) -> None:
    secret = "s3cret-of-phones-" + "x" * 32
    endpoint = "https://auth.example/check?key=s3cret"
    trial = host(database, authentication={"secret": secret, "endpoint": endpoint})
    shown = trial.status().server_config["authentication"]
    assert shown == {"secret": "***", "endpoint": "https://auth.example/check?***"}
    assert trial.process.authentication is not None
    assert trial.process.authentication.secret == secret


@pytest.mark.parametrize("wanted", [None, "", "latest", "1", "2"])
def test_checkpoint_is_retrieved_by_number_or_as_the_latest(database: Database, wanted: str | None) -> None:
    trial = host(database, max_diffs=1)
    report_once(trial)
    number, value = database.transaction(lambda s: management.retrieve(s, "trial", None, wanted))
    assert number == (1 if wanted == "1" else 2)
    assert len(value) > 0


@pytest.mark.parametrize(
    ("name", "version", "checkpoint", "error"),
    [
        ("nobody", None, None, NotFound),
        ("trial", "2", None, NotFound),
        ("trial", "1", "3", NotFound),
        ("trial", "1", "0", NotFound),
        ("trial", "1", "-1", InvalidRequest),
        ("trial", "1", "newest", InvalidRequest),
        ("trial", "1", "٣", InvalidRequest),
        ("trial", "1", "9" * 19, InvalidRequest),
    ],
)
def test_checkpoint_that_is_not_there_is_an_error(
    database: Database, name: str, version: str | None, checkpoint: str | None, error: type[GridNodeError]
) -> None:
    host(database)
    with pytest.raises(error):
        database.transaction(lambda s: management.retrieve(s, name, version, checkpoint))
