"""Progress events in the database: each counted once, in whatever order and however often they come."""

from __future__ import annotations

import random
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from gridnode.db.session import Database
from gridnode_operator.master.datasets.service import assign_node, create_dataset, register_model
from gridnode_operator.master.db.models import Cycle, Event, FinishedModel, Model, Node, ReportCount
from gridnode_operator.master.errors import Forbidden
from gridnode_operator.master.keys.access import Principal
from gridnode_operator.master.models.events import ProgressEvent, read_event
from gridnode_operator.master.models.ingest import UNNAMED, Ingested, ingest
from gridnode_operator.master.models.intake import EventIntake

pytestmark = pytest.mark.integration

START = datetime(2026, 1, 1, tzinfo=UTC)
NODE = Principal("node")


def event(cycle: int, cycles: int = 4, **more: Any) -> ProgressEvent:
    """What a node sends after a cycle of three reports."""
    finished = more.pop("finished", cycle == cycles)
    at = START + timedelta(minutes=more.pop("minute", cycle))
    body = {
        "percent_complete": 100 if finished else cycle * 100 // cycles,
        "model_id": "digits",
        "version": "1.0",
        "node_id": "apps/demo",
        "event_id": str(uuid.uuid4()),
        "occurred_at": at.isoformat(),
        "cycle": cycle,
        "cycles": cycles,
        "finished": finished,
        "deleted": False,
        "reports": 3,
        "accepted": 5,
        "dropped": 2,
        "loss": 1 / cycle if cycle else None,
        "accuracy": 0.5,
        "cycle_seconds": 60.0,
    }
    return read_event({key: value for key, value in (body | more).items() if value is not None}, datetime.now(UTC))


def take(database: Database, *events: ProgressEvent) -> list[Ingested]:
    """Ingest each in a transaction of its own."""
    return [database.transaction(partial(_ingest_one, event=each)) for each in events]


def _ingest_one(session: Session, event: ProgressEvent) -> Ingested:
    return ingest(session, [event])[0]


def model_row(database: Database) -> Model:
    """The only model there is."""
    return database.transaction(lambda session: session.scalars(select(Model)).one())


def cycle_rows(database: Database) -> list[tuple[int, str, int | None]]:
    """Number, state and reports of all cycles."""
    query = select(Cycle.number, Cycle.state, Cycle.reported).order_by(Cycle.number)
    return list(database.transaction(lambda session: session.execute(query).all()))


def total_reports(database: Database) -> int:
    """Reports counted over all minutes."""
    return int(database.transaction(lambda session: session.scalar(select(func.sum(ReportCount.reports)))) or 0)


def test_events_in_order_make_the_state(database: Database) -> None:
    assert take(database, *(event(cycle) for cycle in (1, 2))) == [Ingested(repeated=False, applied=True)] * 2
    model = model_row(database)
    assert (model.name, model.version, model.percent, model.completed_cycles) == ("digits", "1.0", 50, 2)
    assert (model.num_cycles, model.loss, model.accuracy, model.dataset_id) == (4, 0.5, 0.5, None)
    assert cycle_rows(database) == [(1, "completed", 3), (2, "completed", 3)]
    assert total_reports(database) == 6


def test_repeated_events_change_nothing(database: Database) -> None:
    first = event(1)
    take(database, first, event(2))
    before = model_row(database).revision
    assert take(database, first, first) == [Ingested(repeated=True, applied=False)] * 2
    assert model_row(database).revision == before
    assert total_reports(database) == 6


def test_event_repeated_within_one_transaction_counts_once(database: Database) -> None:
    first = event(1)
    done = database.transaction(lambda session: ingest(session, [first, first]))
    assert [each.repeated for each in done] == [False, True]
    assert total_reports(database) == 3


@pytest.mark.parametrize("seed", range(8))
def test_any_order_with_any_repetition_ends_in_the_same_state(database: Database, seed: int) -> None:
    generator = random.Random(seed)
    events = [event(cycle) for cycle in range(1, 5)]
    shuffled = events + generator.choices(events, k=4)
    generator.shuffle(shuffled)
    while shuffled:
        size = generator.randint(1, 3)
        batch, shuffled = shuffled[:size], shuffled[size:]
        database.transaction(partial(ingest, events=batch))
    model = model_row(database)
    assert (model.percent, model.completed_cycles, model.state, model.loss) == (100, 4, "finished", 0.25)
    assert model.finished_at == START + timedelta(minutes=4)
    assert cycle_rows(database) == [(number, "completed", 3) for number in range(1, 5)]
    assert total_reports(database) == 12
    assert database.transaction(lambda session: session.scalar(select(func.count()).select_from(Event))) == 4


def test_progress_never_goes_backwards(database: Database) -> None:
    take(database, event(3))
    (late,) = take(database, event(1))
    assert not late.applied
    assert (model_row(database).percent, model_row(database).completed_cycles) == (75, 3)
    assert [number for number, _, _ in cycle_rows(database)] == [1, 3]


def test_finished_model_is_expected_to_be_fetched_once(database: Database) -> None:
    take(database, event(4), event(4, minute=9))
    rows = database.transaction(lambda session: session.scalars(select(FinishedModel)).all())
    assert [row.state for row in rows] == ["pending"]


def test_cycle_given_up_by_finishing_early_is_another_one(database: Database) -> None:
    take(database, event(2), event(2, finished=True, minute=3, reports=1))
    assert cycle_rows(database) == [(2, "completed", 3), (3, "abandoned", 1)]
    assert model_row(database).state == "finished"


def test_figures_that_name_their_cycle_are_believed(database: Database) -> None:
    take(database, event(0, finished=True, cycle_number=1, cycle_state="abandoned", reports=2))
    assert cycle_rows(database) == [(1, "abandoned", 2)]


def test_deleted_model_stays_and_hosting_it_again_begins_anew(database: Database) -> None:
    take(database, event(3), event(3, deleted=True, minute=5), event(1, minute=7))
    models = database.transaction(lambda session: session.scalars(select(Model).order_by(Model.id)).all())
    assert [(each.completed_cycles, each.deleted_at is None) for each in models] == [(3, False), (1, True)]
    (late,) = take(database, event(2, minute=4))
    assert not late.applied
    completed = select(Model.completed_cycles).order_by(Model.id)
    assert list(database.transaction(lambda session: session.scalars(completed).all())) == [3, 1]


def test_deletion_and_new_hosting_in_one_transaction(database: Database) -> None:
    events = [event(3), event(3, deleted=True, minute=5), event(1, minute=7)]
    done = database.transaction(lambda session: ingest(session, events))
    assert [each.applied for each in done] == [True, True, True]
    models = database.transaction(lambda session: session.scalars(select(Model).order_by(Model.id)).all())
    assert [(each.completed_cycles, each.deleted_at is None) for each in models] == [(3, False), (1, True)]


def test_event_of_a_node_of_2020(database: Database) -> None:
    take(database, read_event({"percent_complete": 40, "model_id": "digits"}, datetime.now(UTC)))
    take(database, read_event({"percent_complete": 20, "model_id": "digits"}, datetime.now(UTC)))
    take(database, read_event({"percent_complete": 100, "model_id": "digits"}, datetime.now(UTC)))
    model = model_row(database)
    assert (model.percent, model.state, model.version) == (100, "finished", "1.0")
    nodes = database.transaction(lambda session: session.scalars(select(Node.node_id)).all())
    assert nodes == [UNNAMED]


def test_nameless_event_is_of_the_node_that_has_such_a_model(database: Database) -> None:
    def register(session: Any) -> None:
        dataset, _ = create_dataset(session, "ann", "d")
        register_model(session, dataset, "digits", features=[], labels=[])
        assign_node(session, dataset, "apps/demo")

    database.transaction(register)
    take(database, event(1, version="2.0"))
    take(database, read_event({"percent_complete": 60, "model_id": "digits"}, datetime.now(UTC)))
    model = model_row(database)
    assert (model.version, model.percent) == ("2.0", 60)
    assert model.dataset_id is not None


def test_unregistered_model_becomes_its_datasets_when_it_is_registered(database: Database) -> None:
    take(database, event(1))

    def register(session: Any) -> int:
        dataset, _ = create_dataset(session, "ann", "d")
        assign_node(session, dataset, "apps/demo")
        register_model(session, dataset, "digits", features=["x"], labels=[])
        return dataset

    dataset = database.transaction(register)
    assert model_row(database).dataset_id == dataset


def test_key_of_one_node_speaks_for_no_other(database: Database) -> None:
    intake = EventIntake(database)
    key = Principal("node", node_id="apps/demo")
    assert intake.take(event(1), key).applied
    assert intake.take(event(2, node_id=None), key).applied
    with pytest.raises(Forbidden, match="apps/demo"):
        intake.take(event(3, node_id="apps/other"), key)
    assert model_row(database).completed_cycles == 2


def test_threads_at_once_lose_nothing_and_count_nothing_twice(database: Database) -> None:
    intake = EventIntake(database)
    events = [event(cycle, cycles=100, node_id=f"apps/{node}") for node in range(4) for cycle in range(1, 26)]
    repeated = [replace(each) for each in events[::5]]
    work = events + repeated
    random.Random(1).shuffle(work)
    with ThreadPoolExecutor(16) as pool:
        done = list(pool.map(lambda each: intake.take(each, NODE), work))
    assert sum(not each.repeated for each in done) == len(events)
    models = database.transaction(lambda session: session.scalars(select(Model)).all())
    assert [(model.completed_cycles, model.percent) for model in models] == [(25, 25)] * 4
    assert total_reports(database) == 3 * len(events)


def test_one_event_that_the_database_refuses_takes_no_other_with_it(database: Database) -> None:
    # The same id from two nodes at once: both pass the look-up, and the index decides.
    ours = event(1)
    theirs = replace(event(1, node_id="apps/other"), event_id=ours.event_id)
    intake = EventIntake(database)
    assert intake.take(ours, NODE).applied
    poison = replace(event(2), percent=2**70)
    with ThreadPoolExecutor(3) as pool:
        good = [pool.submit(intake.take, each, NODE) for each in (event(3), theirs)]
        bad = pool.submit(intake.take, poison, NODE)
        assert [each.result().repeated for each in good] == [False, True]
        with pytest.raises(Exception, match="out of range"):
            bad.result()
