"""The gauges that a scrape reads from the database."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import Metric
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.orm import Session, sessionmaker

from gridnode.db.models import Cycle, OutboxEvent, Process
from gridnode.reporting.database_metrics import CATALOGUE, DatabaseCollector
from gridnode.reporting.metrics import MAXIMUM_MODELS

pytestmark = pytest.mark.integration

Samples = dict[tuple[str, ...], float]


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = create_engine(database_url, pool_size=2, max_overflow=0)
    yield made
    made.dispose()


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(engine)


def read(collector: DatabaseCollector) -> dict[str, Samples]:
    """Samples by metric, then by label values in the order of the labels."""
    families: list[Metric] = list(collector.collect())
    return {
        family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples} for family in families
    }


def add_process(
    session: Session, name: str, *, state: str = "active", completed: int = 0, **config: int | None
) -> Process:
    process = Process(
        name=name,
        version="1",
        state=state,
        secret=b"s",
        client_config={},
        server_config=config,
        parameters=[],
        completed_cycles=completed,
    )
    session.add(process)
    session.flush()
    return process


def add_cycle(
    session: Session, process: Process, *, number: int = 1, state: str = "open", due_in: float | None, **counts: int
) -> None:
    now = datetime.now(UTC)
    session.add(
        Cycle(
            process_id=process.id,
            number=number,
            state=state,
            checkpoint_number=1,
            started_at=now,
            deadline=None if due_in is None else now + timedelta(seconds=due_in),
            **{"min_workers": 2, "min_diffs": 3, "accepted": 5, **counts},
        )
    )
    session.flush()


def test_each_model_shows_how_far_it_is(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        add_process(session, "new", num_cycles=10)
        add_process(session, "under-way", num_cycles=8, completed=2)
        add_process(session, "endless", num_cycles=0, completed=500)
        add_process(session, "endless-by-default", completed=7)
        add_process(session, "null", num_cycles=None, completed=7)
        add_process(session, "finished-early", state="finished", num_cycles=10, completed=3)
    shown = read(DatabaseCollector(sessions))
    assert shown["gridnode_model_progress_ratio"] == {
        ("new", "1"): 0,
        ("under-way", "1"): 0.25,
        ("endless", "1"): 0,
        ("endless-by-default", "1"): 0,
        ("null", "1"): 0,
        ("finished-early", "1"): 1,
    }
    assert shown["gridnode_completed_cycles"]["endless", "1"] == 500
    assert shown["gridnode_database_up"] == {(): 1}


def test_each_model_is_in_one_state(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        for state in ("active", "paused", "failed", "finished"):
            add_process(session, f"is-{state}", state=state)
    shown = read(DatabaseCollector(sessions))["gridnode_process_state"]
    assert len(shown) == 16
    assert {labels for labels, value in shown.items() if value == 1} == {
        (f"is-{state}", "1", state) for state in ("active", "paused", "failed", "finished")
    }


def test_cycle_is_starved_past_its_deadline_for_want_of_reports_or_workers(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        add_cycle(session, add_process(session, "no-reports"), due_in=-1, reports=2)
        add_cycle(session, add_process(session, "no-workers"), due_in=-1, reports=3, accepted=1)
        add_cycle(session, add_process(session, "about-to-close"), due_in=-1, reports=3)
        add_cycle(session, add_process(session, "in-time"), due_in=60, reports=0)
        add_cycle(session, add_process(session, "no-deadline"), due_in=None, reports=0)
        add_cycle(session, add_process(session, "averaging"), state="averaging", due_in=-1, reports=0)
        past = add_process(session, "past")
        add_cycle(session, past, state="abandoned", due_in=-1, reports=0)
        add_cycle(session, past, number=2, due_in=60, reports=0)
        add_process(session, "no-cycle")
    starved = read(DatabaseCollector(sessions))["gridnode_cycle_starved"]
    assert len(starved) == 8
    assert {name for (name, _), value in starved.items() if value} == {"no-reports", "no-workers"}


def test_outbox_shows_what_the_master_node_refused_for_good_apart(sessions: sessionmaker[Session]) -> None:
    collector = DatabaseCollector(sessions)
    assert read(collector)["gridnode_outbox_refused"] == {(): 0}
    past = datetime.now(UTC) - timedelta(days=1)
    with sessions.begin() as session:
        for refused in (True, True, False):
            session.add(
                OutboxEvent(
                    event_id=uuid.uuid4(),
                    process_id=1,
                    body={},
                    created_at=past if refused else datetime.now(UTC),
                    refused_at=past if refused else None,
                )
            )
    shown = read(collector)
    assert shown["gridnode_outbox_refused"] == {(): 2}
    assert shown["gridnode_outbox_depth"] == {(): 1}
    assert shown["gridnode_outbox_age_seconds"][()] < 3600


def test_outbox_shows_its_depth_and_the_age_of_its_oldest_event(sessions: sessionmaker[Session]) -> None:
    collector = DatabaseCollector(sessions)
    empty = read(collector)
    assert empty["gridnode_outbox_depth"] == {(): 0}
    assert empty["gridnode_outbox_age_seconds"] == {(): 0}

    now = datetime.now(UTC)
    with sessions.begin() as session:
        for age, delivered_at in ((500, now), (100, None), (20, None)):
            session.add(
                OutboxEvent(
                    event_id=uuid.uuid4(),
                    process_id=1,
                    body={},
                    created_at=now - timedelta(seconds=age),
                    delivered_at=delivered_at,
                )
            )
    filled = read(collector)
    assert filled["gridnode_outbox_depth"] == {(): 2}
    assert 100 <= filled["gridnode_outbox_age_seconds"][()] < 130


def test_all_metrics_of_the_catalogue_are_there_even_with_nothing_hosted(sessions: sessionmaker[Session]) -> None:
    assert set(read(DatabaseCollector(sessions))) == {metric.name for metric in CATALOGUE}


def test_samples_have_the_labels_of_the_catalogue(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        add_process(session, "labelled")
    labels = {family.name: tuple(family.samples[0].labels) for family in DatabaseCollector(sessions).collect()}
    assert labels == {metric.name: metric.labels for metric in CATALOGUE}


def test_scrape_is_one_query(engine: Engine, sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        for number in range(3):
            add_cycle(session, add_process(session, f"model-{number}"), due_in=60)
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    read(DatabaseCollector(sessions))
    assert len([statement for statement in statements if not statement.startswith("SET LOCAL")]) == 1


def test_locked_table_delays_a_scrape_no_longer_than_the_statement_timeout(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        add_process(session, "mnist")
    collector = DatabaseCollector(sessions, statement_timeout=0.3, deadline=10)
    with sessions.begin() as locking:
        locking.execute(text("LOCK TABLE processes IN ACCESS EXCLUSIVE MODE"))
        began = time.monotonic()
        assert read(collector) == {"gridnode_database_up": {(): 0}}
        assert time.monotonic() - began < 3
    assert read(collector)["gridnode_database_up"] == {(): 1}


def test_timeout_of_a_scrape_is_not_left_on_the_pooled_connection(sessions: sessionmaker[Session]) -> None:
    read(DatabaseCollector(sessions, statement_timeout=0.1))
    with sessions() as session:
        assert session.scalar(text("SHOW statement_timeout")) == "0"


def test_models_beyond_the_bound_are_left_out_finished_and_old_ones_first(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        session.add_all(
            Process(
                name=f"model-{number}",
                version="1",
                state="finished" if number % 2 else "active",
                secret=b"s",
                client_config={},
                server_config={},
                parameters=[],
            )
            for number in range(MAXIMUM_MODELS + 10)
        )
    shown = read(DatabaseCollector(sessions))["gridnode_completed_cycles"]
    assert len(shown) == MAXIMUM_MODELS
    missing = {f"model-{number}" for number in range(MAXIMUM_MODELS + 10)} - {name for name, _ in shown}
    assert missing == {f"model-{number}" for number in range(1, 20, 2)}
