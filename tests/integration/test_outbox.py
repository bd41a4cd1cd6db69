"""Progress events reach the master node: in order per process, none lost, none twice unless somebody died midway."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, func, select, text, update
from sqlalchemy.exc import NoResultFound
from sqlalchemy.orm import Session, sessionmaker

from gridnode.db.models import Assignment, Cycle, OutboxEvent, Process
from gridnode.reporting.dispatcher import Dispatcher
from gridnode.reporting.master import MasterNode
from gridnode.reporting.outbox import (
    REFUSALS,
    claim_due,
    mark_accepted,
    mark_failed,
    mark_invalid,
    purge,
    record_progress,
)
from gridnode.reporting.progress import CycleFigures, ProcessProgress, RunningCycle, cycle_figures
from tests.support.scripted_master import Reply, ScriptedMaster

pytestmark = pytest.mark.integration

NODE = Path(__file__).parent.parent.parent / "node"
NOW = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
Sessions = sessionmaker[Session]


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = create_engine(database_url, pool_size=2, max_overflow=0, pool_timeout=5)
    yield made
    made.dispose()


@pytest.fixture
def sessions(engine: Engine) -> Sessions:
    return sessionmaker(engine, expire_on_commit=False)


@pytest.fixture
def master() -> Iterator[ScriptedMaster]:
    with ScriptedMaster() as server:
        yield server


def dispatcher(
    sessions: Sessions,
    master: ScriptedMaster,
    *,
    timeout: float = 5,
    poll_interval: float = 1.0,
    concurrency: int = 8,
) -> Dispatcher:
    node = MasterNode(master.url, key=None, timeout=timeout)
    return Dispatcher(sessions, node, poll_interval=poll_interval, concurrency=concurrency)


def progress(
    process_id: int, completed: int = 1, *, finished: bool = False, running: RunningCycle | None = None
) -> ProcessProgress:
    return ProcessProgress(
        process_id=process_id,
        model=f"model-{process_id}",
        version="1.0",
        completed_cycles=completed,
        num_cycles=100,
        state="finished" if finished else "active",
        running=running,
    )


def record(sessions: Sessions, process_id: int, cycles: range | None = None) -> None:
    """Events of a process, each in a transaction of its own as when cycles close."""
    for completed in range(1, 2) if cycles is None else cycles:
        with sessions.begin() as session:
            record_progress(session, progress(process_id, completed), node_id="node-a", now=NOW, to_master=True)


def waiting(sessions: Sessions) -> int:
    with sessions() as session:
        return session.scalars(select(func.count()).where(OutboxEvent.delivered_at.is_(None))).one()


def rows(sessions: Sessions) -> list[OutboxEvent]:
    with sessions() as session:
        return list(session.scalars(select(OutboxEvent).order_by(OutboxEvent.id)))


def make_due(sessions: Sessions) -> None:
    """Let all backoffs be over."""
    with sessions.begin() as session:
        # Not of leased events: they are a running dispatcher's to change, and both would wait for each other.
        waiting_again = OutboxEvent.delivered_at.is_(None), OutboxEvent.leased_until.is_(None)
        session.execute(update(OutboxEvent).where(*waiting_again).values(next_attempt_at=func.now()))


def failure(status: int) -> Reply:
    """An answer after which an event is not tried again until :func:`make_due`: a backoff alone may be short."""
    return Reply(status, {"Retry-After": "600"})


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def cycles_by_model(events: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Completed cycles in the order of arrival, by model."""
    arrived: dict[str, list[int]] = defaultdict(list)
    for body in events:
        arrived[body["model_id"]].append(body["cycle"])
    return dict(arrived)


# Recording


def test_event_says_where_the_process_is_and_what_its_cycle_came_to(sessions: Sessions) -> None:
    figures = CycleFigures(
        number=29,
        state="completed",
        started_at=NOW - timedelta(seconds=61.5),
        reports=8,
        accepted=10,
        dropped=2,
        rejected={"cycle_full": 3},
        loss=0.25,
        loss_min=0.125,
        loss_max=0.5,
        cycle_seconds=61.5,
    )
    running = RunningCycle(
        number=30,
        state="open",
        started_at=NOW,
        deadline=NOW + timedelta(hours=1),
        accepted=0,
        working=0,
        reports=0,
        min_workers=2,
        min_diffs=5,
        max_diffs=None,
    )
    with sessions.begin() as session:
        record_progress(session, progress(7, 29, running=running), figures, node_id="node-a", now=NOW, to_master=True)
    (row,) = rows(sessions)
    assert row.process_id == 7
    assert row.body == {
        "percent_complete": 29,
        "model_id": "model-7",
        "version": "1.0",
        "node_id": "node-a",
        "event_id": str(row.event_id),
        "occurred_at": "2024-05-01T12:00:00+00:00",
        "cycle": 29,
        "cycles": 100,
        "finished": False,
        "deleted": False,
        "state": "active",
        "failure": None,
        "running": {
            "number": 30,
            "state": "open",
            "started_at": "2024-05-01T12:00:00+00:00",
            "deadline": "2024-05-01T13:00:00+00:00",
            "accepted": 0,
            "working": 0,
            "reports": 0,
            "min_workers": 2,
            "min_diffs": 5,
            "max_diffs": None,
        },
        "cycle_number": 29,
        "cycle_state": "completed",
        "cycle_started_at": "2024-05-01T11:58:58.500000+00:00",
        "reports": 8,
        "accepted": 10,
        "dropped": 2,
        "rejected": {"cycle_full": 3},
        "loss": 0.25,
        "loss_min": 0.125,
        "loss_max": 0.5,
        "accuracy": None,
        "accuracy_min": None,
        "accuracy_max": None,
        "cycle_seconds": 61.5,
    }


def test_event_without_a_cycle_has_no_figures(sessions: Sessions) -> None:
    with sessions.begin() as session:
        record_progress(session, progress(7, 3, finished=True), node_id="node-a", now=NOW, to_master=True)
    (row,) = rows(sessions)
    assert row.body["percent_complete"] == 100
    assert row.body["finished"] is True
    assert "reports" not in row.body


def test_event_exists_exactly_if_the_change_does(sessions: Sessions) -> None:
    with sessions() as session:
        record_progress(session, progress(1), node_id="node-a", now=NOW, to_master=True)
        session.rollback()
    assert rows(sessions) == []


def test_nothing_is_recorded_without_a_master_node(sessions: Sessions) -> None:
    with sessions.begin() as session:
        record_progress(session, progress(1), node_id="node-a", now=NOW, to_master=False)
    assert rows(sessions) == []


# Figures of a cycle


def add_cycle(session: Session, *, state: str, closed_at: datetime | None) -> int:
    process = Process(
        name="mnist", version="1", state="active", secret=b"s", client_config={}, server_config={}, parameters=[]
    )
    session.add(process)
    session.flush()
    cycle = Cycle(
        process_id=process.id,
        number=1,
        state=state,
        checkpoint_number=1,
        min_workers=1,
        min_diffs=1,
        started_at=NOW,
        closed_at=closed_at,
    )
    session.add(cycle)
    session.flush()
    return cycle.id


def add_assignment(session: Session, cycle_id: int, state: str, loss: float | None = None) -> None:
    session.add(
        Assignment(
            cycle_id=cycle_id,
            worker_id=uuid.uuid4(),
            state=state,
            assigned_at=NOW,
            lease_until=NOW,
            loss=loss,
            accuracy=None if loss is None else loss / 2,
        )
    )


def test_figures_count_devices_and_average_what_they_reported(sessions: Sessions) -> None:
    with sessions.begin() as session:
        cycle_id = add_cycle(session, state="completed", closed_at=NOW + timedelta(seconds=90))
        for loss in (1.0, 2.0, None):
            add_assignment(session, cycle_id, "reported", loss)
        add_assignment(session, cycle_id, "lapsed", 1000.0)
        add_assignment(session, cycle_id, "assigned")
        session.flush()
        assert cycle_figures(session, cycle_id) == CycleFigures(
            number=1,
            state="completed",
            started_at=NOW,
            reports=3,
            accepted=5,
            dropped=2,
            loss=1.5,
            loss_min=1.0,
            loss_max=2.0,
            accuracy=0.75,
            accuracy_min=0.5,
            accuracy_max=1.0,
            cycle_seconds=90.0,
        )


def test_devices_that_still_train_are_not_dropped(sessions: Sessions) -> None:
    with sessions.begin() as session:
        cycle_id = add_cycle(session, state="open", closed_at=None)
        add_assignment(session, cycle_id, "lapsed")
        add_assignment(session, cycle_id, "assigned")
        session.flush()
        assert cycle_figures(session, cycle_id) == CycleFigures(
            number=1, state="open", started_at=NOW, reports=0, accepted=2, dropped=1
        )


def test_figures_of_a_cycle_that_nobody_took_part_in(sessions: Sessions) -> None:
    with sessions.begin() as session:
        cycle_id = add_cycle(session, state="abandoned", closed_at=NOW)
        assert cycle_figures(session, cycle_id) == CycleFigures(
            number=1, state="abandoned", started_at=NOW, reports=0, accepted=0, dropped=0, cycle_seconds=0.0
        )
        with pytest.raises(NoResultFound):
            cycle_figures(session, cycle_id + 1)


@pytest.mark.parametrize("nonsense", [float("nan"), float("inf"), float("-inf"), 1e200, -1.7e308, 5e-324])
def test_no_loss_that_a_device_reports_harms_the_figures(sessions: Sessions, nonsense: float) -> None:
    with sessions.begin() as session:
        cycle_id = add_cycle(session, state="completed", closed_at=NOW)
        for loss in (nonsense, nonsense, nonsense, 0.0):
            add_assignment(session, cycle_id, "reported", loss)
        session.flush()
        figures = cycle_figures(session, cycle_id)
    assert figures.reports == 4
    assert figures.loss == pytest.approx(0.0)
    json.dumps([figures.loss, figures.loss_min, figures.loss_max], allow_nan=False)


# Delivery


def test_events_of_a_process_arrive_once_and_in_order(sessions: Sessions, master: ScriptedMaster) -> None:
    for process_id in (1, 2, 3):
        record(sessions, process_id, range(1, 6))
    assert dispatcher(sessions, master).run_once() == 15
    assert cycles_by_model(master.accepted()) == {f"model-{process_id}": [1, 2, 3, 4, 5] for process_id in (1, 2, 3)}
    assert waiting(sessions) == 0
    assert dispatcher(sessions, master).run_once() == 0


def test_refused_event_holds_up_its_process_and_no_other(sessions: Sessions, master: ScriptedMaster) -> None:
    master.script = lambda body: failure(500) if body["model_id"] == "model-1" else Reply()
    record(sessions, 1, range(1, 4))
    record(sessions, 2, range(1, 4))
    node = dispatcher(sessions, master)
    assert node.run_once() == 3
    assert cycles_by_model(master.accepted()) == {"model-2": [1, 2, 3]}
    assert {post.body["cycle"] for post in master.posts if post.status == 500} == {1}
    first = rows(sessions)[0]
    assert first.last_error == "HTTP 500"
    assert first.attempts == 1
    assert first.leased_until is None

    master.script = lambda _: Reply()
    make_due(sessions)
    assert node.run_once() == 3
    assert cycles_by_model(master.accepted())["model-1"] == [1, 2, 3]
    assert rows(sessions)[0].last_error is None


def refuse(sessions: Sessions, node: Dispatcher, times: int) -> None:
    for _ in range(times):
        make_due(sessions)
        node.run_once()


@pytest.mark.parametrize("status", [400, 413, 422])
def test_event_that_is_called_wrong_for_good_is_set_aside_and_the_next_are_sent_in_order(
    sessions: Sessions, master: ScriptedMaster, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    master.script = lambda body: failure(status) if body["cycle"] == 1 else Reply()
    record(sessions, 1, range(1, 4))
    node = dispatcher(sessions, master)
    refuse(sessions, node, REFUSALS - 1)
    assert master.accepted() == []
    assert rows(sessions)[0].refused_at is None

    refuse(sessions, node, 1)
    assert cycles_by_model(master.accepted()) == {"model-1": [2, 3]}
    aside = rows(sessions)[0]
    assert aside.refused_at is not None
    assert (aside.delivered_at, aside.leased_until, aside.last_error) == (None, None, f"HTTP {status}")
    assert (aside.refusals, aside.body["cycle"]) == (REFUSALS, 1)
    (logged,) = [entry for entry in caplog.records if entry.levelname == "ERROR"]
    assert "set aside" in logged.message
    assert logged.__dict__["event_id"] == str(aside.event_id)

    posts = len(master.posts)
    record(sessions, 1, range(4, 5))
    refuse(sessions, node, 3)
    assert [post.body["cycle"] for post in master.posts[posts:]] == [4]


@pytest.mark.parametrize("status", [401, 403, 404, 408, 429, 500, 503])
def test_event_is_never_set_aside_for_what_is_not_about_it(
    sessions: Sessions, master: ScriptedMaster, status: int
) -> None:
    master.script = lambda _: failure(status)
    record(sessions, 1, range(1, 3))
    refuse(sessions, dispatcher(sessions, master), REFUSALS + 2)
    assert {post.body["cycle"] for post in master.posts} == {1}
    assert [(row.refused_at, row.refusals) for row in rows(sessions)] == [(None, 0)] * 2


def test_refusal_that_comes_after_the_lease_does_not_count(sessions: Sessions) -> None:
    record(sessions, 1)
    with sessions.begin() as session:
        session.execute(update(OutboxEvent).values(refusals=REFUSALS - 1))
        (late,) = claim_due(session, limit=1, lease=0)
    with sessions.begin() as session:
        claim_due(session, limit=1, lease=30)
    with sessions.begin() as session:
        assert not mark_invalid(session, late, error="HTTP 400", retry_in=0)
    assert (rows(sessions)[0].refusals, rows(sessions)[0].refused_at) == (REFUSALS - 1, None)


def test_event_that_was_set_aside_and_accepted_after_all_is_delivered(sessions: Sessions) -> None:
    """Two replicas post it, and the slower one has the better answer."""
    record(sessions, 1)
    with sessions.begin() as session:
        session.execute(update(OutboxEvent).values(refusals=REFUSALS - 1))
        (slow,) = claim_due(session, limit=1, lease=0)
    with sessions.begin() as session:
        (quick,) = claim_due(session, limit=1, lease=30)
        assert mark_invalid(session, quick, error="HTTP 400", retry_in=0)
    with sessions.begin() as session:
        mark_accepted(session, [slow])
    assert rows(sessions)[0].delivered_at is not None
    assert rows(sessions)[0].refused_at is None


def test_repeated_attempts_carry_the_same_event_id(sessions: Sessions, master: ScriptedMaster) -> None:
    master.script = lambda _: failure(503)
    record(sessions, 1)
    node = dispatcher(sessions, master)
    for _ in range(3):
        make_due(sessions)
        node.run_once()
    assert [post.status for post in master.posts] == [503, 503, 503]
    assert {post.body["event_id"] for post in master.posts} == {str(rows(sessions)[0].event_id)}


def test_event_waits_as_long_as_the_master_asks(sessions: Sessions, master: ScriptedMaster) -> None:
    master.script = lambda _: Reply(503, {"Retry-After": "120"})
    record(sessions, 1)
    dispatcher(sessions, master).run_once()
    with sessions() as session:
        wait = session.scalars(select(func.extract("epoch", OutboxEvent.next_attempt_at - func.now()))).one()
    assert 110 < wait <= 120
    assert dispatcher(sessions, master).run_once() == 0
    assert len(master.posts) == 1


def test_redirect_delivers_nothing_anywhere(sessions: Sessions, master: ScriptedMaster) -> None:
    with ScriptedMaster() as elsewhere:
        master.script = lambda _: Reply(307, {"Location": f"{elsewhere.url}/model_progress"})
        record(sessions, 1)
        assert dispatcher(sessions, master).run_once() == 0
        assert elsewhere.posts == []
    assert waiting(sessions) == 1


def test_slow_answers_hold_up_no_other_process(sessions: Sessions, master: ScriptedMaster) -> None:
    others_are_done = threading.Event()

    def hold_up_one(body: dict[str, Any]) -> Reply:
        if body["model_id"] == "model-1":
            others_are_done.wait(20)
        return Reply()

    master.script = hold_up_one
    record(sessions, 1)
    for process_id in range(2, 12):
        record(sessions, process_id, range(1, 3))
    node = dispatcher(sessions, master, timeout=30, concurrency=2)
    node.start()
    until(lambda: len(master.accepted()) == 20)
    others_are_done.set()
    until(lambda: waiting(sessions) == 0)
    node.stop()
    assert master.accepted()[-1]["model_id"] == "model-1"


def test_post_without_an_answer_is_tried_again(sessions: Sessions, master: ScriptedMaster) -> None:
    answers = iter([Reply(delay=1), Reply()])
    master.script = lambda _: next(answers)
    record(sessions, 1)
    node = dispatcher(sessions, master, timeout=0.3)
    assert node.run_once() == 0
    assert rows(sessions)[0].last_error == "no answer within 0.3 s"
    make_due(sessions)
    assert node.run_once() == 1
    # The master node did take the first one, too late: it knows by the id that the second is the same.
    until(lambda: len(master.accepted()) == 2)
    assert len({body["event_id"] for body in master.accepted()}) == 1


def test_nothing_is_lost_while_the_master_is_away(sessions: Sessions, master: ScriptedMaster) -> None:
    master.stop()
    node = dispatcher(sessions, master, poll_interval=0.05)
    node.start()
    record(sessions, 1, range(1, 4))
    record(sessions, 2, range(1, 4))
    until(lambda: all(row.attempts for row in rows(sessions) if row.body["cycle"] == 1))
    master.start()
    until(lambda: waiting(sessions) == 0)
    node.stop()
    assert cycles_by_model(master.accepted()) == {"model-1": [1, 2, 3], "model-2": [1, 2, 3]}


def test_master_that_fails_and_restarts_gets_everything_in_order(sessions: Sessions, master: ScriptedMaster) -> None:
    posts = Counter[str]()

    def fail_every_third(body: dict[str, Any]) -> Reply:
        posts[body["model_id"]] += 1
        return Reply(500 if posts[body["model_id"]] % 3 == 0 else 200)

    master.script = fail_every_third
    node = dispatcher(sessions, master, poll_interval=0.05)
    node.start()
    for process_id in (1, 2):
        record(sessions, process_id, range(1, 4))
    until(lambda: len(master.accepted()) >= 2)
    master.stop()
    for process_id in (1, 2):
        record(sessions, process_id, range(4, 7))
    master.start()

    def delivered() -> bool:
        make_due(sessions)
        node.notify()
        return waiting(sessions) == 0

    until(delivered)
    node.stop()
    first_arrivals = list({body["event_id"]: body for body in reversed(master.accepted())}.values())[::-1]
    assert cycles_by_model(first_arrivals) == {"model-1": [1, 2, 3, 4, 5, 6], "model-2": [1, 2, 3, 4, 5, 6]}


# Several dispatchers


def test_two_replicas_post_nothing_twice_and_keep_the_order(database_url: str, master: ScriptedMaster) -> None:
    master.script = lambda _: Reply(delay=0.01)
    engines = [create_engine(database_url, pool_size=2) for _ in range(2)]
    replicas = [dispatcher(sessionmaker(engine), master, poll_interval=0.01) for engine in engines]
    sessions = sessionmaker(engines[0])
    for replica in replicas:
        replica.start()
    for completed in range(1, 11):
        for process_id in range(1, 6):
            record(sessions, process_id, range(completed, completed + 1))
    until(lambda: waiting(sessions) == 0)
    for replica in replicas:
        replica.stop()
    assert cycles_by_model(master.accepted()) == {f"model-{number}": list(range(1, 11)) for number in range(1, 6)}
    for engine in engines:
        engine.dispose()


def test_claims_of_concurrent_transactions_are_disjoint(sessions: Sessions) -> None:
    for process_id in range(1, 7):
        record(sessions, process_id, range(1, 3))
    with sessions.begin() as one, sessions.begin() as other:
        first = claim_due(one, limit=4, lease=30)
        second = claim_due(other, limit=100, lease=30)
    assert len(first) == 4
    assert sorted(claimed.process_id for claimed in (*first, *second)) == [1, 2, 3, 4, 5, 6]
    assert {claimed.body["cycle"] for claimed in (*first, *second)} == {1}


def test_event_that_is_being_settled_is_not_claimed_nor_is_the_next(sessions: Sessions) -> None:
    record(sessions, 1, range(1, 3))
    with sessions.begin() as session:
        (claimed,) = claim_due(session, limit=1, lease=0)
    with sessions.begin() as settling:
        mark_accepted(settling, [claimed])
        with sessions.begin() as looking:
            assert claim_due(looking, limit=10, lease=30) == []
    with sessions.begin() as session:
        assert [each.body["cycle"] for each in claim_due(session, limit=10, lease=30)] == [2]


def test_answer_that_comes_after_the_lease_does_not_disturb_the_next_claim(sessions: Sessions) -> None:
    record(sessions, 1)
    with sessions.begin() as session:
        (late,) = claim_due(session, limit=1, lease=0)
    with sessions.begin() as session:
        (present,) = claim_due(session, limit=1, lease=30)
    with sessions.begin() as session:
        mark_failed(session, late, error="HTTP 500", retry_in=0)
    with sessions.begin() as session:
        assert claim_due(session, limit=1, lease=30) == []
    assert rows(sessions)[0].leased_until == present.leased_until
    with sessions.begin() as session:
        mark_accepted(session, [late])
    assert waiting(sessions) == 0


KILLED = """
import sys
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker
from gridnode.reporting.dispatcher import Dispatcher
from gridnode.reporting.master import MasterNode
database_url, master_url, lease = sys.argv[1:]
sessions = sessionmaker(create_engine(database_url))
Dispatcher(sessions, MasterNode(master_url, key=None, timeout=60), lease=float(lease)).run_once()
"""


def test_event_of_a_killed_process_is_posted_by_another_when_its_lease_ends(
    database_url: str, sessions: Sessions, master: ScriptedMaster
) -> None:
    arrived = threading.Event()
    lease = 2.0

    def hang_first(_body: dict[str, Any]) -> Reply:
        if arrived.is_set():
            return Reply()
        arrived.set()
        return Reply(delay=600)

    master.script = hang_first
    record(sessions, 1, range(1, 3))
    doomed = subprocess.Popen(
        [sys.executable, "-c", KILLED, database_url, master.url, str(lease)],
        env={**os.environ, "PYTHONPATH": str(NODE)},
    )
    try:
        assert arrived.wait(20)
    finally:
        doomed.kill()
        doomed.wait()
    (claimed, _) = rows(sessions)
    assert claimed.leased_until is not None

    other = dispatcher(sessions, master, poll_interval=0.05)
    other.start()
    until(lambda: waiting(sessions) == 0)
    other.stop()
    assert cycles_by_model(master.accepted()) == {"model-1": [1, 2]}
    delivered, _ = rows(sessions)
    assert delivered.delivered_at is not None
    assert delivered.delivered_at >= claimed.leased_until
    assert delivered.attempts == 2


# The loop


def test_notify_wakes_the_loop_before_its_next_poll(sessions: Sessions, master: ScriptedMaster) -> None:
    node = dispatcher(sessions, master, poll_interval=600)
    node.start()
    time.sleep(0.3)
    record(sessions, 1, range(1, 6))
    node.notify()
    until(lambda: waiting(sessions) == 0, seconds=5)
    node.stop()


def test_loop_finds_events_of_other_processes_by_polling(sessions: Sessions, master: ScriptedMaster) -> None:
    node = dispatcher(sessions, master)
    node.start()
    time.sleep(0.3)
    record(sessions, 1)
    until(lambda: waiting(sessions) == 0, seconds=5)
    node.stop()


def test_poll_that_finds_nothing_is_one_statement(engine: Engine, sessions: Sessions, master: ScriptedMaster) -> None:
    record(sessions, 1)
    dispatcher(sessions, master).run_once()
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    dispatcher(sessions, master).run_once()
    assert len(statements) == 1


def test_no_connection_is_held_during_a_post(engine: Engine, sessions: Sessions, master: ScriptedMaster) -> None:
    in_use: list[str] = []

    def look(_body: dict[str, Any]) -> Reply:
        time.sleep(0.1)
        in_use.append(engine.pool.status())
        return Reply()

    master.script = look
    record(sessions, 1)
    dispatcher(sessions, master).run_once()
    assert len(in_use) == 1
    assert "Current Checked out connections: 0" in in_use[0]


def test_never_more_posts_at_once_than_allowed(sessions: Sessions, master: ScriptedMaster) -> None:
    lock = threading.Lock()
    under_way = [0]
    most = [0]

    def count(_body: dict[str, Any]) -> Reply:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        time.sleep(0.05)
        with lock:
            under_way[0] -= 1
        return Reply()

    master.script = count
    for process_id in range(1, 13):
        record(sessions, process_id)
    assert dispatcher(sessions, master, concurrency=3).run_once() == 12
    assert most == [3]


def test_stop_waits_for_posts_under_way_and_claims_no_more(sessions: Sessions, master: ScriptedMaster) -> None:
    arrived = threading.Event()

    def slow(_body: dict[str, Any]) -> Reply:
        arrived.set()
        return Reply(delay=0.5)

    master.script = slow
    record(sessions, 1, range(1, 3))
    node = dispatcher(sessions, master)
    node.start()
    assert arrived.wait(10)
    node.stop()
    assert [row.delivered_at is not None for row in rows(sessions)] == [True, False]


def test_stop_does_not_wait_for_ever(sessions: Sessions, master: ScriptedMaster) -> None:
    arrived = threading.Event()

    def hang(_body: dict[str, Any]) -> Reply:
        arrived.set()
        return Reply(delay=600)

    master.script = hang
    record(sessions, 1)
    node = dispatcher(sessions, master, timeout=60)
    node.start()
    assert arrived.wait(10)
    began = time.monotonic()
    node.stop(timeout=0.5)
    assert time.monotonic() - began < 2
    assert waiting(sessions) == 1


def test_loop_outlives_a_lost_database(
    sessions: Sessions, master: ScriptedMaster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gridnode.reporting.dispatcher")
    node = dispatcher(sessions, master, poll_interval=0.05)
    node.start()
    time.sleep(0.3)
    with sessions.begin() as session:
        session.execute(text("ALTER TABLE outbox RENAME TO hidden"))
    until(lambda: len(caplog.records) == 1)
    time.sleep(0.3)
    with sessions.begin() as session:
        session.execute(text("ALTER TABLE hidden RENAME TO outbox"))
    record(sessions, 1)
    with sessions.begin() as session:
        session.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    until(lambda: master.accepted() != [])
    node.stop()
    messages = [entry.message for entry in caplog.records]
    assert messages[:2] == ["progress events wait for the database", "progress events reach the database again"]
    assert len(messages) <= 4


def test_answer_is_kept_while_the_database_is_away(sessions: Sessions, master: ScriptedMaster) -> None:
    record(sessions, 1)

    def lose_the_table(_body: dict[str, Any]) -> Reply:
        with sessions.begin() as session:
            session.execute(text("ALTER TABLE outbox RENAME TO hidden"))
        return Reply()

    master.script = lose_the_table
    node = dispatcher(sessions, master, poll_interval=0.05)
    node.start()
    until(lambda: master.posts != [])
    time.sleep(0.3)
    with sessions.begin() as session:
        session.execute(text("ALTER TABLE hidden RENAME TO outbox"))
    until(lambda: waiting(sessions) == 0)
    node.stop()
    assert len(master.posts) == 1


# Logs


def test_absence_of_the_master_is_logged_when_it_begins_and_ends(
    sessions: Sessions, master: ScriptedMaster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gridnode.reporting")
    node = Dispatcher(sessions, MasterNode(master.url, key="very-secret-key", timeout=5))
    for process_id in range(1, 6):
        record(sessions, process_id)
    master.stop()
    for _ in range(3):
        make_due(sessions)
        node.run_once()
    master.start()
    make_due(sessions)
    node.run_once()
    assert [entry.message for entry in caplog.records] == [
        "the master node is unreachable; progress events are kept and tried again",
        "the master node answers again",
    ]
    assert caplog.records[0].__dict__["reason"] == "connection failed: Connection refused"
    assert "very-secret-key" not in "".join(str(entry.__dict__) for entry in caplog.records)


def test_refusal_of_a_process_is_logged_when_it_begins_changes_and_ends(
    sessions: Sessions, master: ScriptedMaster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gridnode.reporting")
    answers = iter([*[failure(400)] * 3, *[failure(500)] * 2, Reply()])
    master.script = lambda body: next(answers) if body["model_id"] == "model-1" else Reply()
    node = dispatcher(sessions, master)
    record(sessions, 1)
    for completed in range(1, 7):
        record(sessions, 2, range(completed, completed + 1))
        make_due(sessions)
        node.run_once()
    logged = [(entry.levelname, entry.__dict__["process_id"], entry.__dict__["reason"]) for entry in caplog.records]
    assert logged == [("WARNING", 1, "HTTP 400"), ("WARNING", 1, "HTTP 500"), ("INFO", 1, "")]


# Retention


def test_purge_deletes_what_was_delivered_long_ago_and_nothing_else(sessions: Sessions) -> None:
    for process_id in (1, 2, 3):
        record(sessions, process_id)
    ages = {1: timedelta(days=8), 2: timedelta(days=6)}
    with sessions.begin() as session:
        session.execute(update(OutboxEvent).values(created_at=func.now() - timedelta(days=30)))
        for process_id, age in ages.items():
            session.execute(
                update(OutboxEvent).where(OutboxEvent.process_id == process_id).values(delivered_at=func.now() - age)
            )
    with sessions.begin() as session:
        assert purge(session, delivered=timedelta(days=7), refused=timedelta(days=30)) == 1
    assert [row.process_id for row in rows(sessions)] == [2, 3]


def test_purge_deletes_what_was_set_aside_long_ago(sessions: Sessions) -> None:
    for process_id, days in ((1, 31), (2, 29)):
        record(sessions, process_id)
        with sessions.begin() as session:
            since = func.now() - timedelta(days=days)
            session.execute(update(OutboxEvent).where(OutboxEvent.process_id == process_id).values(refused_at=since))
    with sessions.begin() as session:
        assert purge(session, delivered=timedelta(days=7), refused=timedelta(days=30)) == 1
    assert [row.process_id for row in rows(sessions)] == [2]
