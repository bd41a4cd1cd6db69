"""What a node writes into its outbox is what the master node shows of its models: both sides' own code, no HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from gridnode.cycles import closing
from gridnode.cycles.reports import Report
from gridnode.db.models import OutboxEvent
from gridnode.db.session import Database
from gridnode.processes import management
from gridnode_operator.master.keys.access import Principal
from gridnode_operator.master.models.events import read_event
from gridnode_operator.master.models.history import CycleView, list_cycles
from gridnode_operator.master.models.ingest import ingest
from gridnode_operator.master.models.queries import ModelView, list_models
from tests.support.domain import MEAN, START, TO_MASTER, Trial, host

pytestmark = pytest.mark.integration

ADMIN = Principal("admin")


@pytest.fixture
def node(database_url: str) -> Iterator[Database]:
    """The database of a node."""
    opened = Database(database_url, pool_size=2)
    yield opened
    opened.close()


class Told:
    """Both sides of one process."""

    def __init__(self, trial: Trial, master: Database) -> None:
        self.trial = trial
        self._master = master
        self._delivered = 0

    def deliver(self) -> None:
        """Take the events that the node has written since."""
        query = select(OutboxEvent).where(OutboxEvent.id > self._delivered).order_by(OutboxEvent.id)
        events = self.trial.database.transaction(lambda s: s.scalars(query).all())
        read = [read_event(each.body, datetime.now(UTC)) for each in events]
        self._master.transaction(lambda s: ingest(s, read))
        self._delivered = events[-1].id if events else self._delivered

    def model(self) -> ModelView:
        """What lists show of it, once everything is delivered."""
        self.deliver()
        (found,) = self._master.transaction(lambda s: list_models(s, ADMIN))
        return found

    def cycles(self) -> list[CycleView]:
        """What is shown of its cycles, once everything is delivered."""
        model = self.model().id
        return self._master.transaction(lambda s: list_cycles(s, model))


def train(trial: Trial, *losses: float, vanished: int = 0, rejected: dict[str, int] | None = None) -> None:
    """A cycle of so many reports, 30 s long."""
    workers = trial.join(len(losses) + vanished)
    ones = [np.ones(3, np.float32)]
    trial.seconds += 30
    reports = [
        Report(worker, ones, bytes(worker.bytes), loss=loss, accuracy=loss / 10)
        for worker, loss in zip(workers, losses, strict=False)
    ]
    trial.report(*reports)
    trial.database.transaction(lambda s: closing.mark_due(s, trial.now))
    cycle = trial.cycle().id
    closed = trial.database.transaction(
        lambda s: closing.close_cycle(s, cycle, trial.process, MEAN, trial.now, TO_MASTER, rejected)
    )
    assert closed is not None


def test_cycle_is_shown_as_its_node_summed_it_up(node: Database, database: Database) -> None:
    trial = host(node, max_diffs=3, num_cycles=4, cycle_length=600, min_diffs=2)
    train(trial, 1.0, 2.0, 6.0, vanished=2, rejected={"cycle_full": 7, "too_slow": 1})
    told = Told(trial, database)

    (cycle,) = told.cycles()

    assert asdict(cycle) == {
        "number": 1,
        "state": "completed",
        "started_at": START,
        "completed_at": START + timedelta(seconds=30),
        "seconds": 30.0,
        "accepted": 5,
        "reported": 3,
        "dropped": 2,
        "rejected": {"cycle_full": 7, "too_slow": 1},
        "loss": 3.0,
        "loss_min": 1.0,
        "loss_max": 6.0,
        "accuracy": pytest.approx(0.3),
        "accuracy_min": 0.1,
        "accuracy_max": 0.6,
    }
    model = told.model()
    assert (model.percent, model.completed_cycles, model.num_cycles, model.state) == (25, 1, 4, "active")
    assert model.running is not None
    assert (model.running.number, model.running.started_at) == (2, START + timedelta(seconds=30))
    assert model.running.deadline == START + timedelta(seconds=630)
    assert (model.running.min_diffs, model.running.max_diffs, model.running.reports) == (2, 3, 0)
    assert model.waits_for is not None
    assert model.waits_for.startswith("has 0 of at least 2 reports")


def test_state_of_a_process_is_shown_as_it_changes(node: Database, database: Database) -> None:
    trial = host(node, max_diffs=1, num_cycles=4)
    train(trial, 1.0)
    told = Told(trial, database)

    def now(change: Any, **more: Any) -> tuple[Any, ...]:
        trial.seconds += 1
        trial.database.transaction(lambda s: change(s, trial.process.id, now=trial.now, announcer=TO_MASTER, **more))
        model = told.model()
        return model.state, model.failure, model.percent, None if model.running is None else model.running.number

    assert now(management.pause) == ("paused", None, 25, 2)
    assert now(management.resume) == ("active", None, 25, 2)
    assert now(closing.fail_process, reason="it overflows") == ("failed", "it overflows", 25, 2)
    assert now(management.resume) == ("active", None, 25, 2)
    assert now(management.finish) == ("finished", None, 100, None)
    assert [(each.number, each.state, each.accepted) for each in told.cycles()] == [
        (1, "completed", 1), (2, "abandoned", 0),
    ]  # fmt: skip
    trial.database.transaction(
        lambda s: management.delete_process(s, trial.process.id, trial.now, TO_MASTER, force=True)
    )
    told.deliver()
    assert [each.state for each in database.transaction(lambda s: list_models(s, ADMIN, state="deleted"))] == [
        "deleted"
    ]
