"""Work beside requests: done by one replica at a time, taken over from one that is gone, not ended by a failure."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import func, select, update

from gridnode.db.session import Database
from gridnode.errors import Unavailable
from gridnode_operator.master.background import Background, hold_lease
from gridnode_operator.master.db.models import DeviceLoss, Event, Lease, ReportCount
from gridnode_operator.master.devices.losses import loss_history, read_device_report, record_device_loss
from gridnode_operator.master.keys.access import Principal
from gridnode_operator.master.models.events import read_event
from gridnode_operator.master.models.ingest import ingest
from gridnode_operator.master.retention import delete_old

pytestmark = pytest.mark.integration


def test_one_of_two_replicas_does_it(database: Database) -> None:
    done: list[str] = []
    one = Background("work", lambda: done.append("one"), interval=60, database=database)
    other = Background("work", lambda: done.append("other"), interval=60, database=database)
    assert (one.turn(), other.turn(), one.turn()) == (True, False, True)
    assert done == ["one", "one"]
    past = datetime.now(UTC) - timedelta(seconds=1)
    database.transaction(lambda session: session.execute(update(Lease).values(until=past)))
    assert (other.turn(), one.turn()) == (True, False)


def test_leases_of_different_works_are_apart(database: Database) -> None:
    holders = [uuid.uuid4(), uuid.uuid4()]
    taken = [
        database.transaction(partial(hold_lease, name=name, holder=holder, seconds=60))
        for name, holder in (("a", holders[0]), ("b", holders[1]), ("a", holders[1]), ("a", holders[0]))
    ]
    assert taken == [True, True, False, True]


@pytest.mark.parametrize("error", [ValueError("a mistake"), Unavailable("away", retry_after=1)])
def test_failure_does_not_end_it(database: Database, error: Exception) -> None:
    turns: list[int] = []

    def work() -> None:
        turns.append(1)
        raise error

    background = Background("work", work, interval=0.01, database=database)
    background.start()
    deadline = time.monotonic() + 20
    while len(turns) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    background.stop()
    assert len(turns) >= 3


def test_old_events_are_deleted_and_progress_stays(database: Database) -> None:
    for cycle in (1, 2, 3):
        body: dict[str, Any] = {
            "percent_complete": cycle, "model_id": "m", "node_id": "n", "cycle": cycle, "cycles": 100, "reports": 1,
            "event_id": str(uuid.uuid4()),
        }  # fmt: skip
        event = read_event(body, datetime.now(UTC))
        database.transaction(partial(ingest, events=[event]))
    old = datetime.now(UTC) - timedelta(days=31)
    database.transaction(lambda session: session.execute(update(Event).where(Event.cycle < 3).values(received_at=old)))
    database.transaction(lambda session: session.execute(update(ReportCount).values(minute=old)))
    assert delete_old(database, event_days=30) == 2
    left = database.transaction(lambda session: session.scalars(select(Event.cycle)).all())
    counts = database.transaction(lambda session: session.scalar(select(func.count()).select_from(ReportCount)))
    assert (list(left), counts) == ([3], 0)
    late = read_event({"percent_complete": 1, "model_id": "m", "node_id": "n", "cycle": 1}, datetime.now(UTC))
    assert not database.transaction(partial(ingest, events=[late]))[0].applied


def test_single_voices_are_summed_up_when_their_cycle_is_long_over(database: Database) -> None:
    def step(cycle: int) -> None:
        body = {"percent_complete": cycle, "model_id": "m", "node_id": "n", "cycle": cycle, "cycles": 100}
        database.transaction(partial(ingest, events=[read_event(body, datetime.now(UTC))]))

    def say(device: str, loss: float) -> None:
        body: dict[str, object] = {"model_id": "m", "loss": loss, "acc": loss / 10, "worker_id": device}
        report = read_device_report(body, "10.0.0.1")
        assert database.transaction(partial(record_device_loss, report=report, principal=Principal("admin")))

    step(0)
    for cycle in range(1, 5):
        say("a", cycle)
        say("b", cycle + 2)
        say("b", cycle + 4)
        step(cycle)
    before = database.transaction(partial(loss_history, model_id=1))
    assert [(each.cycle, each.devices, each.posts, each.loss) for each in before] == [
        (cycle, 2, 3, cycle + 2) for cycle in range(1, 5)
    ]
    delete_old(database, event_days=30)
    assert database.transaction(partial(loss_history, model_id=1)) == before
    assert database.transaction(partial(loss_history, model_id=1, after=2, limit=1)) == before[2:3]
    left = database.transaction(lambda session: session.scalars(select(DeviceLoss.cycle).distinct()).all())
    assert list(left) == [4]
    delete_old(database, event_days=30)
    assert database.transaction(partial(loss_history, model_id=1)) == before
